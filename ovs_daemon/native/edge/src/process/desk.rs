//! What the process serves, and the requests that change it.
//!
//! An attach is answered when an engine has accepted the session and the guest's socket listens, or
//! with the reason why not; a detach when the engine has let go of the session. Both have a limit,
//! so that an engine that hangs does not hang the operator. A detach says (`confirmed`) whether what
//! the guest had asked for has ended: where it does not know, writes may follow, and the daemon must
//! have them shut out before anybody else reads the volume.

use std::path::{Path, PathBuf};

use format::edge::Refusal;
use machines::edge::{Ending, Phase};
use media::{Dir, Ring};
use serde::Deserialize;
use serde_json::{Value, json};

use super::attachments::{Attachments, Kept, Spec};
use super::control::Asker;
use super::served::{Served, parse_owner};
use super::whereabouts::Where;
use super::{Fatal, guest_socket};
use crate::client::{Attachment, EdgeTargets, Notice};
use crate::fuse::FuseServer;
use crate::nbd::NbdServer;
use crate::server::{parse_uuid, uuid};
use crate::target::Targets;

/// Longest wait for an engine's answer to an attach or detach, in nanoseconds.
const PATIENCE_NS: u64 = 15_000_000_000;

/// What a request may use.
pub(super) struct Room<'a> {
    pub(super) ring: &'a mut Ring,
    pub(super) nbd: &'a mut NbdServer,
    pub(super) fuse: &'a mut FuseServer,
    pub(super) targets: &'a mut EdgeTargets,
    pub(super) now_ns: u64,
}

/// A request that failed.
pub(super) struct Failure {
    pub(super) code: String,
    pub(super) what: String,
    pub(super) why: String,
    pub(super) fix: String,
}

impl Failure {
    pub(super) fn new(code: &str, what: &str, why: impl Into<String>, fix: &str) -> Self {
        Self { code: code.into(), what: what.into(), why: why.into(), fix: fix.into() }
    }
}

#[derive(Deserialize)]
struct Asked {
    op: String,
    volume: Option<String>,
    name: Option<String>,
    socket: Option<PathBuf>,
    file: Option<PathBuf>,
    owner: Option<String>,
    mode: Option<u32>,
    #[serde(default)]
    read_only: bool,
    #[serde(default)]
    drop_on_resize: bool,
    #[serde(flatten)]
    place: Where,
}

pub(super) struct Desk {
    run_dir: PathBuf,
    attachments: Attachments,
    served: Vec<Served>,
    answers: Vec<(Asker, String)>,
    log: Vec<String>,
}

impl Desk {
    pub(super) fn open(run_dir: &Path) -> Result<Self, Fatal> {
        for name in ["nbd", "volumes"] {
            Dir::create(&run_dir.join(name)).map_err(|e| {
                let fix = "make the run directory writable for the user of this process";
                Fatal::new("prepare the guests' sockets and files", e, fix)
            })?;
        }
        let (served, answers, log) = (Vec::new(), Vec::new(), Vec::new());
        let attachments = Attachments::of(run_dir);
        Ok(Self { run_dir: run_dir.to_owned(), attachments, served, answers, log })
    }

    pub(super) fn take_answers(&mut self) -> Vec<(Asker, String)> {
        std::mem::take(&mut self.answers)
    }

    pub(super) fn take_log(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }

    /// Serves what an earlier life of this process served.
    pub(super) fn restore(&mut self, room: &mut Room<'_>) {
        let (kept, complaint) = self.attachments.load();
        self.log.extend(complaint);
        for Kept { spec, size } in kept {
            let Some(uuid) = parse_uuid(&spec.volume) else { continue };
            let attachment = Attachment {
                uuid,
                read_only: spec.read_only,
                known_size: Some(size),
                whereabouts: spec.place.parse().unwrap_or_default(),
            };
            let volume = room.targets.attach(&attachment, room.ring);
            let mut served = Served {
                spec,
                volume,
                size,
                opened: true,
                listening: false,
                leaving: false,
                waiters: Vec::new(),
                deadline_ns: None,
            };
            let title = served.title();
            self.log.push(match served.serve(room) {
                Ok(()) => format!("{title}: served again on {}", served.spec.places()),
                Err(failure) => format!("{title}: not served: {}", failure.why),
            });
            self.served.push(served);
        }
    }

    /// Closes all guests' sockets and files; what is served is kept for the next life.
    pub(super) fn close(&mut self, ring: &mut Ring, nbd: &mut NbdServer, fuse: &mut FuseServer) {
        nbd.close(ring);
        fuse.close();
        self.served.clear();
    }

    fn succeed(&mut self, asker: Asker, more: Value) {
        let mut answer = json!({"ok": true});
        if let (Some(answer), Value::Object(more)) = (answer.as_object_mut(), more) {
            answer.extend(more);
        }
        self.answers.push((asker, answer.to_string()));
    }

    fn fail(&mut self, asker: Asker, failure: &Failure) {
        let Failure { code, what, why, fix } = failure;
        let answer = json!({
            "ok": false,
            "error": {"code": code, "what": what, "why": why, "fix": fix},
        });
        self.answers.push((asker, answer.to_string()));
    }

    /// Takes a request; its answer comes now or in a later turn.
    pub(super) fn request(&mut self, asker: Asker, line: &str, room: &mut Room<'_>) {
        let asked: Asked = match serde_json::from_str(line) {
            Ok(asked) => asked,
            Err(error) => {
                let fix = "send one JSON object a line, with an \"op\"";
                let what = "understand a request";
                return self
                    .fail(asker, &Failure::new("bad_request", what, error.to_string(), fix));
            }
        };
        let outcome = match asked.op.as_str() {
            "ping" => Ok(Some(json!({"release": net::RELEASE}))),
            "list" => Ok(Some(json!({"volumes": self.list(room)}))),
            "attach" => self.attach(asker, asked, room),
            "detach" => self.detach(asker, &asked, room),
            "drop" => self.drop_connections(&asked, room),
            "retarget" => self.retarget(&asked, room),
            other => Err(Failure::new(
                "bad_request",
                "understand a request",
                format!("there is no op {other:?}"),
                "use attach, retarget, detach, drop, list or ping",
            )),
        };
        match outcome {
            Ok(Some(more)) => self.succeed(asker, more),
            Ok(None) => {}
            Err(failure) => self.fail(asker, &failure),
        }
    }

    fn list(&self, room: &Room<'_>) -> Vec<Value> {
        let one = |served: &Served| {
            let status = room.targets.status(served.volume);
            let phase = status.as_ref().map(|status| status.phase);
            let state = match phase {
                _ if served.leaving => "detaching",
                _ if !served.opened => "attaching",
                _ if !served.is_as_asked(room) => "no_socket",
                Some(Phase::Ready) => "serving",
                _ => "waiting",
            };
            json!({
                "volume": served.spec.volume,
                "name": served.spec.name,
                "socket": served.spec.socket,
                "file": served.spec.file,
                "read_only": served.spec.read_only,
                "size": served.size,
                "state": state,
                "why": status.as_ref().map_or("", |status| &status.why),
                "in_flight": status.as_ref().map_or(0, |status| status.in_flight),
                "epoch": status.as_ref().map_or(0, |status| status.epoch),
                "target": status.as_ref().map_or("", |status| &status.target),
            })
        };
        self.served.iter().map(one).collect()
    }

    fn find(&mut self, volume: &str) -> Option<usize> {
        self.served.iter().position(|served| served.spec.volume == volume)
    }

    fn attach(
        &mut self,
        asker: Asker,
        asked: Asked,
        room: &mut Room<'_>,
    ) -> Result<Option<Value>, Failure> {
        let (bytes, spec) = self.spec_of(asked)?;
        let what = format!("attach volume {} ({})", spec.name, spec.volume);
        if let Some(at) = self.find(&spec.volume) {
            return self.attach_again(at, asker, &spec, &what, room);
        }
        if self.served.iter().any(|served| served.spec.name == spec.name) {
            let why = format!("another volume is served under the name {:?}", spec.name);
            return Err(Failure::new("duplicate_name", &what, why, "detach that volume first"));
        }
        let whereabouts = spec.place.parse().map_err(|why| bad_place(&what, why))?;
        let (read_only, known_size) = (spec.read_only, None);
        let attachment = Attachment { uuid: bytes, read_only, known_size, whereabouts };
        let volume = room.targets.attach(&attachment, room.ring);
        self.served.push(Served {
            spec,
            volume,
            size: 0,
            opened: false,
            listening: false,
            leaving: false,
            waiters: vec![asker],
            deadline_ns: Some(room.now_ns + PATIENCE_NS),
        });
        Ok(None)
    }

    fn attach_again(
        &mut self,
        at: usize,
        asker: Asker,
        spec: &Spec,
        what: &str,
        room: &mut Room<'_>,
    ) -> Result<Option<Value>, Failure> {
        let served = &mut self.served[at];
        if served.leaving {
            let why = "it is being detached, and its engine has not let go of it yet";
            return Err(Failure::new("busy", what, why, "try again in a moment"));
        }
        if !served.spec.can_become(spec) {
            let why = "it is attached already, in another way";
            return Err(Failure::new("in_use", what, why, "detach it first"));
        }
        let whereabouts = spec.place.parse().map_err(|why| bad_place(what, why))?;
        if !served.spec.place.same_places(&spec.place) {
            room.targets.retarget(served.volume, &whereabouts, room.ring);
        }
        if !served.opened {
            served.spec = spec.clone();
            served.waiters.push(asker);
            return Ok(None);
        }
        let before = std::mem::replace(&mut served.spec, spec.clone());
        if let Err(failure) = served.serve(room) {
            served.spec = before;
            return Err(failure);
        }
        if before != *spec {
            self.save().map_err(|why| unsaved(what, &why))?;
        }
        Ok(Some(json!({})))
    }

    /// Closes a volume's connections, whose guests connect again.
    fn drop_connections(
        &mut self,
        asked: &Asked,
        room: &mut Room<'_>,
    ) -> Result<Option<Value>, Failure> {
        let at = self.find_asked(asked, "close the connections of")?;
        room.nbd.drop_connections(self.served[at].volume);
        Ok(Some(json!({})))
    }

    /// A volume is served elsewhere from now on; its guests notice nothing but a pause.
    fn retarget(&mut self, asked: &Asked, room: &mut Room<'_>) -> Result<Option<Value>, Failure> {
        let at = self.find_asked(asked, "retarget")?;
        let served = &mut self.served[at];
        let what = format!("retarget {}", served.title());
        let whereabouts = asked.place.parse().map_err(|why| bad_place(&what, why))?;
        room.targets.retarget(served.volume, &whereabouts, room.ring);
        let before = std::mem::replace(&mut served.spec.place, asked.place.clone());
        if before != asked.place {
            self.save().map_err(|why| unsaved(&what, &why))?;
        }
        Ok(Some(json!({})))
    }

    /// The volume that a request names.
    fn find_asked(&mut self, asked: &Asked, verb: &str) -> Result<usize, Failure> {
        let asked = asked.volume.as_deref().unwrap_or("?");
        let volume = parse_uuid(asked).map_or_else(|| asked.to_owned(), |bytes| uuid(&bytes));
        self.find(&volume).ok_or_else(|| {
            let what = format!("{verb} volume {volume}");
            let why = "this Edge does not serve it";
            Failure::new("unknown_volume", &what, why, "see what it serves: op list")
        })
    }

    fn spec_of(&self, asked: Asked) -> Result<([u8; 16], Spec), Failure> {
        let what = format!("attach volume {}", asked.volume.as_deref().unwrap_or("?"));
        let bad = |why: &str, fix: &str| Failure::new("bad_request", &what, why, fix);
        let bytes = asked.volume.as_deref().and_then(parse_uuid);
        let bytes = bytes.ok_or_else(|| bad("\"volume\" is no UUID", "give the volume's UUID"))?;
        let volume = uuid(&bytes);
        let name = asked.name.unwrap_or_else(|| volume.clone());
        if name.is_empty() || name.len() > 4096 {
            return Err(bad("\"name\" is empty or over 4096 bytes", "give a shorter name"));
        }
        let mode = asked.mode.unwrap_or(0o600);
        if mode > 0o777 {
            let fix = "give permission bits as a decimal number, as in 432 for rw-rw----";
            return Err(bad("\"mode\" is more than permission bits", fix));
        }
        if let Some(owner) = &asked.owner
            && parse_owner(owner).is_none()
        {
            return Err(bad(
                "\"owner\" is not \"uid:gid\"",
                "give two numbers, as in \"64055:108\"",
            ));
        }
        let (mut socket, file) = (asked.socket, asked.file);
        if socket.is_none() && file.is_none() {
            socket = Some(guest_socket(&self.run_dir, &volume));
        }
        if socket.iter().chain(&file).any(|path| !path.is_absolute()) {
            let why = "\"socket\" or \"file\" is not an absolute path";
            return Err(bad(why, "give an absolute path"));
        }
        let (read_only, drop_on_resize) = (asked.read_only, asked.drop_on_resize);
        let owner = asked.owner;
        let place = asked.place;
        Ok((
            bytes,
            Spec { volume, name, socket, file, owner, mode, read_only, drop_on_resize, place },
        ))
    }

    fn detach(
        &mut self,
        asker: Asker,
        asked: &Asked,
        room: &mut Room<'_>,
    ) -> Result<Option<Value>, Failure> {
        let at = self.find_asked(asked, "detach")?;
        let served = &mut self.served[at];
        let before = std::mem::replace(&mut served.waiters, vec![asker]);
        let again = std::mem::replace(&mut served.leaving, true);
        served.deadline_ns = Some(room.now_ns + PATIENCE_NS);
        if again {
            served.waiters.splice(0..0, before);
            return Ok(None);
        }
        let (title, volume) = (served.title(), served.volume);
        served.withdraw(room);
        room.targets.detach(volume, room.ring);
        let what = format!("attach {title}");
        for waiter in before {
            let why = "it was detached meanwhile";
            self.fail(waiter, &Failure::new("busy", &what, why, "attach it again"));
        }
        self.log.push(format!("{title}: detached"));
        self.save_or_say();
        Ok(None)
    }

    fn save(&self) -> Result<(), String> {
        let lasting = self.served.iter().filter(|served| served.opened && !served.leaving);
        let kept = lasting.map(|served| Kept { spec: served.spec.clone(), size: served.size });
        self.attachments.save(kept.collect()).map_err(|error| error.to_string())
    }

    fn save_or_say(&mut self) {
        if let Err(why) = self.save() {
            self.log.push(format!("what is served will not be known after a restart: {why}"));
        }
    }

    /// When [`Desk::turn`] has to run at the latest.
    pub(super) fn next_deadline_ns(&self) -> Option<u64> {
        self.served.iter().filter_map(|served| served.deadline_ns).min()
    }

    /// Acts on what happened to sessions and on limits that have passed.
    pub(super) fn turn(&mut self, room: &mut Room<'_>) {
        for notice in room.targets.take_notices() {
            let volume = match &notice {
                Notice::Opened { volume, .. }
                | Notice::Waiting { volume, .. }
                | Notice::Resized { volume, .. }
                | Notice::Ended { volume, .. } => *volume,
            };
            if let Some(at) = self.served.iter().position(|served| served.volume == volume) {
                self.noticed(at, notice, room);
            }
        }
        for at in 0..self.served.len() {
            if self.served[at].deadline_ns.is_some_and(|deadline| deadline <= room.now_ns) {
                self.served[at].deadline_ns = None;
                self.expired(at, room);
            }
        }
    }

    fn noticed(&mut self, at: usize, notice: Notice, room: &mut Room<'_>) {
        let served = &mut self.served[at];
        let title = served.title();
        match notice {
            Notice::Opened { .. } | Notice::Waiting { .. } if served.leaving => {}
            Notice::Opened { first, .. } => {
                let info = room.targets.info(served.volume);
                served.size = info.map_or(served.size, |info| info.size);
                if first {
                    return self.opened(at, room);
                }
                self.log.push(format!("{title}: an engine serves it again"));
                self.save_or_say();
            }
            Notice::Waiting { why, .. } => {
                self.log.push(format!("{title}: its guests wait: {why}"));
            }
            Notice::Resized { size, .. } => {
                served.size = size;
                self.log.push(format!("{title}: its size is {size} bytes now"));
                if served.spec.drop_on_resize {
                    room.nbd.drop_connections(served.volume);
                }
                self.save_or_say();
            }
            Notice::Ended { ending, all_ended, refusal, .. } => {
                let served = self.served.swap_remove(at);
                self.ended(served, ending, all_ended, refusal, room);
            }
        }
    }

    /// The first handshake of an attach succeeded.
    fn opened(&mut self, at: usize, room: &mut Room<'_>) {
        let served = &mut self.served[at];
        served.opened = true;
        served.deadline_ns = None;
        let (title, waiters) = (served.title(), std::mem::take(&mut served.waiters));
        let what = format!("attach {title}");
        let listened =
            served.serve(room).and_then(|()| self.save().map_err(|why| unsaved(&what, &why)));
        let served = &mut self.served[at];
        match listened {
            Ok(()) => {
                let (size, places) = (served.size, served.spec.places());
                self.log.push(format!("{title}: serves {size} bytes on {places}"));
                for asker in waiters {
                    self.succeed(asker, json!({}));
                }
            }
            Err(failure) => {
                served.leaving = true;
                served.withdraw(room);
                room.targets.detach(served.volume, room.ring);
                self.log.push(format!("{title}: not attached: {}", failure.why));
                for asker in waiters {
                    self.fail(asker, &failure);
                }
            }
        }
    }

    fn ended(
        &mut self,
        mut served: Served,
        ending: Ending,
        all_ended: bool,
        refusal: Option<Refusal>,
        room: &mut Room<'_>,
    ) {
        let title = served.title();
        served.withdraw(room);
        if ending == Ending::Deleted {
            self.log.push(format!("{title}: it was deleted, its guests get errors"));
            self.save_or_say();
        }
        let failure = match refusal {
            _ if served.leaving => None,
            Some(Refusal { code, what, why, fix }) => Some(Failure { code, what, why, fix }),
            None => {
                let (what, why) = (format!("attach {title}"), "its session ended");
                Some(Failure::new("unknown_volume", &what, why, "check that the volume exists"))
            }
        };
        if served.leaving && served.opened && !all_ended {
            self.log.push(format!("{title}: its engine did not say that all writes have ended"));
        }
        for asker in std::mem::take(&mut served.waiters) {
            match &failure {
                None => self.succeed(asker, json!({"confirmed": all_ended})),
                Some(failure) => self.fail(asker, failure),
            }
        }
        if let (false, Some(failure)) = (served.opened, failure) {
            self.log.push(format!("{title}: not attached: {}", failure.why));
        }
    }

    /// An engine took too long.
    fn expired(&mut self, at: usize, room: &mut Room<'_>) {
        let served = &mut self.served[at];
        let waiters = std::mem::take(&mut served.waiters);
        if served.leaving {
            // The guest's socket is gone, which is what a detach is about; the rest follows.
            let title = served.title();
            self.log.push(format!("{title}: its engine is slow to let go of it"));
            for asker in waiters {
                self.succeed(asker, json!({"confirmed": false}));
            }
            return;
        }
        served.leaving = true;
        room.targets.detach(served.volume, room.ring);
        let what = format!("attach {}", served.title());
        let why = format!("the engine did not answer within {} s", PATIENCE_NS / 1_000_000_000);
        let fix = "look at the state and the log of vstorage-daemon, then try again";
        let failure = Failure::new("engine_unavailable", &what, why, fix);
        for asker in waiters {
            self.fail(asker, &failure);
        }
    }
}

fn bad_place(what: &str, why: String) -> Failure {
    Failure::new("bad_request", what, why, "give the token as the daemon issued it")
}

fn unsaved(what: &str, why: &str) -> Failure {
    let fix = "make room on, or make writable, the file system of the run directory";
    Failure::new("run_dir", what, why, fix)
}
