//! The volumes' doors: who enters, who must go first, who is shut out.

use format::edge::Hello;
use machines::edge::{Door, Guest, Verdict};
use media::Ring;

#[cfg(test)]
use super::Connection;
use super::refusals::{taken_away, too_late};
use super::session::End;
use super::{EdgeServer, Host, Place, Visitor};
use crate::target::VolumeId;

impl EdgeServer {
    /// Connections of earlier generations of a volume's attachments are ended and let in no more.
    /// [`EdgeServer::has_shut_out`] says when nothing of them can happen any more. Call it when the
    /// volume is opened, before anybody can find it, and when the generation was raised.
    pub fn shut_out(&mut self, volume: VolumeId, generation: u64) {
        if generation == 0 {
            return;
        }
        let earlier = self.doors.entry(volume).or_default().raise(generation);
        earlier.into_iter().for_each(|index| self.end(index, Some(generation)));
    }

    /// See [`EdgeServer::shut_out`].
    pub fn has_shut_out(&self, volume: VolumeId) -> bool {
        self.doors.get(&volume).is_none_or(Door::is_settled)
    }

    /// Volumes of which a connection has shown a generation that nobody has told of: other front
    /// ends have to shut out earlier ones as well.
    pub fn take_raised(&mut self) -> Vec<VolumeId> {
        std::mem::take(&mut self.raised)
    }

    pub(super) fn knock<H: Host + ?Sized>(
        &mut self,
        visitor: Visitor,
        ring: &mut Ring,
        host: &mut H,
    ) {
        let Visitor { volume, generation, .. } = visitor;
        let Hello { edge, connection, .. } = visitor.adopted.hello;
        // Over TCP its token proves it.
        let of = visitor.adopted.hello.host.as_str().into();
        let index = self.insert(Place::Waiting(Box::new(visitor)));
        let door = self.doors.entry(volume).or_default();
        let before = door.generation();
        let verdict = door.knock(index, Guest { host: of, edge, connection, generation });
        let present = door.generation();
        if present > before {
            self.raised.push(volume);
        }
        match verdict {
            Verdict::Enter => {
                self.turned_away.remove(&(volume, edge));
                self.enter(index, host, ring);
            }
            Verdict::Wait { end } => {
                let earlier = door.raise(present);
                for index in end {
                    self.end(index, earlier.contains(&index).then_some(present));
                }
            }
            Verdict::TooLate => {
                if let Some(Place::Waiting(visitor)) = self.remove(index) {
                    self.refuse(&visitor.adopted, &too_late(&visitor.adopted.hello));
                }
            }
            Verdict::ShutOut { generation: present } => {
                if let Some(Place::Waiting(visitor)) = self.remove(index) {
                    self.turn_away(&visitor, present);
                }
            }
        }
    }

    /// A connection must take no more requests: of an earlier generation than the one that is given,
    /// else to make room for a later one of its Edge.
    fn end(&mut self, index: u32, present: Option<u64>) {
        let end = || match present {
            Some(present) => End::ShutOut(format!(
                "the volume was taken away from this host's users: only generation {present} of its \
                 attachments is let in, 'vstorage volume show' says whose"
            )),
            None => End::Replaced,
        };
        match self.connections[index as usize].place.as_mut() {
            Some(Place::Open(session)) => session.end_with(end()),
            Some(Place::Stream(stream)) => stream.end_with(end()),
            Some(Place::Waiting(_)) => {
                if let Some(Place::Waiting(visitor)) = self.remove(index) {
                    match present {
                        Some(present) => self.turn_away(&visitor, present),
                        None => self.refuse(&visitor.adopted, &too_late(&visitor.adopted.hello)),
                    }
                    self.leave_door(visitor.volume, index);
                }
                return;
            }
            _ => return,
        }
        self.touched.push(index);
    }

    /// Refuses a connection of an earlier generation; the log hears of it once.
    fn turn_away(&mut self, visitor: &Visitor, present: u64) {
        let hello = &visitor.adopted.hello;
        let refusal = taken_away(hello, visitor.generation, present);
        if self.turned_away.insert((visitor.volume, hello.edge)) {
            self.refuse(&visitor.adopted, &refusal);
        } else {
            visitor.adopted.refuse(&refusal);
        }
    }

    /// The number of the latest connection that waits for earlier ones.
    #[cfg(test)]
    pub(crate) fn at_the_door(&self) -> Option<u64> {
        let number = |one: &Connection| match &one.place {
            Some(Place::Waiting(visitor)) => Some(visitor.adopted.hello.connection),
            _ => None,
        };
        self.connections.iter().filter_map(number).max()
    }

    /// Nothing of a connection can happen any more.
    pub(super) fn leave_door(&mut self, volume: VolumeId, index: u32) {
        if let Some(door) = self.doors.get_mut(&volume) {
            self.admitted.extend(door.gone(index));
            if door.is_like_new() {
                self.doors.remove(&volume);
            }
        }
    }

    /// The volume is not served here any more.
    pub(super) fn forget_door(&mut self, volume: VolumeId) {
        self.doors.remove(&volume);
        self.raised.retain(|raised| *raised != volume);
        self.turned_away.retain(|(turned, _)| *turned != volume);
    }
}
