//! What is offered under which name, and what one connection may see of it.

use std::collections::BTreeMap;

use machines::nbd::{Catalogue, Export};

use crate::target::{Targets, VolumeId};

use super::Stats;
use crate::flow::pool::NONE;

/// A volume under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The volume.
    pub volume: VolumeId,
    /// At most 4096 bytes; unique within one server.
    pub name: String,
    /// For people who look at a list of exports; may be empty.
    pub description: String,
    /// Refuse writes, whatever the volume would accept.
    pub read_only: bool,
}

pub(super) struct Entry {
    pub(super) offer: Offer,
    pub(super) stats: Stats,
}

/// All exports, by index and by name.
#[derive(Default)]
pub(super) struct Exports {
    entries: Vec<Option<Entry>>,
    names: BTreeMap<String, u32>,
}

impl Exports {
    /// False: the name is taken.
    pub(super) fn add(&mut self, offer: Offer) -> Option<u32> {
        if self.names.contains_key(&offer.name) {
            return None;
        }
        let name = offer.name.clone();
        let entry = Some(Entry { offer, stats: Stats::default() });
        let index = match self.entries.iter().position(Option::is_none) {
            Some(index) => {
                self.entries[index] = entry;
                index
            }
            None => {
                self.entries.push(entry);
                self.entries.len() - 1
            }
        };
        self.names.insert(name, index as u32);
        Some(index as u32)
    }

    pub(super) fn remove(&mut self, index: u32) {
        if let Some(entry) = self.entries.get_mut(index as usize).and_then(Option::take) {
            self.names.remove(&entry.offer.name);
        }
    }

    pub(super) fn of(&self, volume: VolumeId) -> impl Iterator<Item = (u32, &Entry)> {
        let entries = self.entries.iter().enumerate();
        entries
            .filter_map(|(index, entry)| Some((index as u32, entry.as_ref()?)))
            .filter(move |(_, entry)| entry.offer.volume == volume)
    }

    pub(super) fn get(&self, index: u32) -> Option<&Entry> {
        self.entries.get(index as usize)?.as_ref()
    }

    #[inline]
    pub(super) fn stats(&mut self, index: u32) -> Option<&mut Stats> {
        Some(&mut self.entries.get_mut(index as usize)?.as_mut()?.stats)
    }

    /// The index behind a name, for a connection that may see only `only` (or all).
    pub(super) fn find(&self, name: &str, only: u32) -> Option<u32> {
        if only != NONE {
            let entry = self.get(only)?;
            return (name.is_empty() || name == entry.offer.name).then_some(only);
        }
        match self.names.get(name) {
            Some(index) => Some(*index),
            None if name.is_empty() && self.names.len() == 1 => self.names.values().next().copied(),
            None => None,
        }
    }
}

/// The exports as one connection sees them.
pub(super) struct View<'a> {
    pub(super) exports: &'a Exports,
    pub(super) targets: &'a dyn Targets,
    /// The only export that it may see, or [`NONE`] for all.
    pub(super) only: u32,
}

impl Catalogue for View<'_> {
    fn find(&self, name: &str) -> Option<Export> {
        let index = self.exports.find(name, self.only)?;
        let offer = &self.exports.get(index)?.offer;
        let info = self.targets.info(offer.volume)?;
        Some(Export {
            name: offer.name.clone(),
            description: offer.description.clone(),
            size: info.size,
            read_only: offer.read_only || info.read_only,
        })
    }

    fn names(&self) -> Vec<String> {
        if self.only != NONE {
            let entry = self.exports.get(self.only);
            return entry.map(|e| e.offer.name.clone()).into_iter().collect();
        }
        self.exports.names.keys().cloned().collect()
    }
}
