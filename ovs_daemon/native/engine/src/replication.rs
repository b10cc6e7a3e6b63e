//! Control calls about the DTL: pairing, answering, taking over.

use std::time::Duration;

use dtl::{CallError, Caller, FetchError, Local, Patience, clear, fetch, remove};
use format::entry::Uuid;
use machines::dtl::State;
use machines::dtl::link::Mode;
use media::{Dir, File};
use serde::Deserialize;
use serde_json::json;
use volume::Pair;

use crate::config::Config;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::lease::Granted;
use crate::mailbox::Command;
use crate::spec::{parse, uuid};

/// The DTL of a volume as the registry records it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DtlSpec {
    mode: String,
    #[serde(default)]
    node: String,
    #[serde(default)]
    address: Option<std::net::SocketAddr>,
    state: String,
}

impl DtlSpec {
    pub(crate) fn pair(&self, what: &str, cluster: Uuid) -> Result<Pair> {
        let bad = |why: String| {
            Error::new("BAD_REQUEST", what, why, "this is a fault of the caller: report it")
        };
        let mode = match self.mode.as_str() {
            "sync" => Mode::Sync,
            "async" => Mode::Async,
            "none" => Mode::None,
            other => return Err(bad(format!("{other:?} is no mode of the DTL"))),
        };
        let state = match self.state.as_str() {
            "standalone" => State::Standalone,
            "degraded" => State::Degraded,
            "catching_up" => State::CatchingUp,
            "in_sync" => State::InSync,
            other => return Err(bad(format!("{other:?} is no state of the DTL"))),
        };
        if mode != Mode::None && self.address.is_none() {
            return Err(bad("the address of the DTL node is missing".to_owned()));
        }
        let (node, address) = (self.node.clone(), self.address);
        Ok(Pair { mode, state, node, address, cluster })
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TailRequest {
    uuid: String,
    epoch: u64,
    address: std::net::SocketAddr,
    #[serde(default)]
    keep_local: bool,
}

fn call_failed(what: &str, request: &TailRequest, error: &CallError) -> Error {
    let why = format!("the DTL node at {}: {error}", request.address);
    match error {
        CallError::Refused { .. } => {
            let fix = "another node owns the volume: look at its record in the registry";
            Error::new("DTL_FENCED", what, why, fix)
        }
        CallError::Rejected(_) | CallError::Malformed(_) => {
            let fix = "look at the log of the DTL node";
            Error::new("DTL_REJECTED", what, why, fix)
        }
        CallError::Unreachable(_) | CallError::Late(_) | CallError::Broken(_) => {
            let fix = "try again when the node is back; only a person may go on without it";
            Error::new("DTL_UNREACHABLE", what, why, fix)
        }
    }
}

/// Notes which boot of the kernel the DTL node's files belong to.
pub(crate) fn prepare_dtl_dir(config: &Config) -> Result<()> {
    let what = "cannot keep the tails of other nodes";
    let failed = |e: media::StoreError| {
        let fix = "check dtl_dir and its disk; nothing is kept until then";
        Error::new("DTL_DIR", what, e.to_string(), fix)
    };
    let Some(dir) = &config.dtl_dir else {
        let fix = "correct the configuration";
        return Err(Error::new("BAD_CONFIG", what, "dtl_listen is set, dtl_dir is not", fix));
    };
    let mut boot = [0; 64];
    let path = std::path::Path::new("/proc/sys/kernel/random/boot_id");
    let len = File::open_read(path).and_then(|f| f.read_some_at(0, &mut boot)).map_err(failed)?;
    dtl::mark_power_loss(dir, &boot[..len]).map_err(failed)
}

impl Engine {
    fn caller(&self, request: &TailRequest) -> Result<Caller> {
        Ok(Caller {
            address: request.address,
            cluster: self.config.cluster()?,
            volume: uuid(&request.uuid)?,
            epoch: request.epoch,
            generation: 0,
        })
    }

    /// Pairs an open volume with another DTL node, or changes its mode.
    pub fn set_dtl(&self, text: &str, dtl_json: &str) -> Result<()> {
        let what = format!("cannot pair volume {text} with a DTL node");
        let spec: Option<DtlSpec> = parse(&what, dtl_json)?;
        let cluster = self.config.cluster()?;
        let pair = match spec {
            Some(spec) => spec.pair(&what, cluster)?,
            None => Pair {
                mode: Mode::None,
                state: State::Standalone,
                node: String::new(),
                address: None,
                cluster,
            },
        };
        if pair.state == State::InSync {
            let why = "the new DTL node cannot have anything yet, and the state says that it has";
            let fix = "record \"degraded\" together with the new node";
            return Err(Error::new("BAD_REQUEST", what, why, fix));
        }
        let (_, place) = self.place(what, text)?;
        let volume = place.volume;
        self.ask(place.shard, |reply| Command::Pair { volume, pair, reply })
    }

    /// The next thing that the daemon has to decide or to know.
    pub fn next_event(&self, timeout_s: f64) -> Option<String> {
        let timeout = Duration::try_from_secs_f64(timeout_s).unwrap_or(Duration::ZERO);
        self.events.next(timeout.min(Duration::from_secs(86_400)))
    }

    /// Whether the question of an event is still of interest. One that was asked before its volume
    /// was paired anew is not: what it says is complete may be wiped by now, on the same node.
    pub fn event_stands(&self, id: u64) -> bool {
        self.events.stands(id)
    }

    /// Whether the registry accepted what an event asked for. An event of a volume that is gone or
    /// was paired anew meanwhile is no longer of interest.
    pub fn answer_event(&self, id: u64, accepted: bool) {
        if let Some(asker) = self.events.take(id) {
            let (volume, proposal) = (asker.volume, asker.proposal);
            let answer = Command::DtlAnswer { volume, proposal, accepted };
            self.mailboxes[asker.shard].send(answer);
        }
    }

    /// Fences the DTL node and puts what it holds into this node's write buffer.
    pub fn fetch_tail(&self, request_json: &str) -> Result<String> {
        let request: TailRequest = parse("cannot take over a volume", request_json)?;
        let what = format!("cannot take over volume {}", request.uuid);
        let caller = self.caller(&request)?;
        let _claim = self.claim(&what, caller.volume)?;
        let local = if request.keep_local { Local::Newest } else { Local::Stale };
        let saved =
            || volume::saved_end(&*self.backend, &caller.volume).map_err(|error| error.to_string());
        let fetched = fetch(&caller, &self.config.buffer_dir, local, &saved, Patience::default());
        let fetched = fetched.map_err(|error| match &error {
            FetchError::Call(call) => call_failed(&what, &request, call),
            FetchError::Suspect => {
                let fix = "give the volume back to the node that served it last, as \"degraded\"; \
                           anything else is a person's decision";
                let why = format!("the DTL node at {}: {error}", request.address);
                Error::new("DTL_SUSPECT", &what, why, fix)
            }
            FetchError::Damaged(_) => {
                let fix = "look at the disk of the DTL node with `vstorage-offline verify`";
                let why = format!("the DTL node at {}: {error}", request.address);
                Error::new("DTL_DAMAGED", &what, why, fix)
            }
            FetchError::OwnDamaged(_) => {
                let fix = "repair what is named; the volume stays closed and nothing was changed";
                Error::new("DAMAGED", &what, error.to_string(), fix)
            }
            FetchError::Store(_) => {
                let fix = "check the write buffer's disk and try again";
                Error::new("STORE", &what, error.to_string(), fix)
            }
            FetchError::Backend(_) => {
                let fix = "check the backend and try again";
                Error::new("BACKEND", &what, error.to_string(), fix)
            }
        })?;
        self.fetched().insert(caller.volume, request.epoch);
        let source = if fetched.local { "local" } else { "dtl" };
        let answer = json!({
            "sequence": fetched.sequence, "scos": fetched.scos, "bytes": fetched.bytes,
            "source": source,
        });
        Ok(answer.to_string())
    }

    /// Opening what the registry calls in_sync needs the tail first: this node's write buffer
    /// alone may be stale, or lack what power loss took.
    pub(crate) fn check_fetched(
        &self,
        what: &str,
        id: &Uuid,
        epoch: u64,
        pair: &Pair,
    ) -> Result<()> {
        let fetched = self.fetched().remove(id);
        if pair.state == State::InSync && fetched != Some(epoch) {
            let why = format!("the DTL is in_sync, and its tail was not fetched for epoch {epoch}");
            let fix = "fetch the tail first";
            return Err(Error::new("TAIL_NOT_FETCHED", what, why, fix));
        }
        Ok(())
    }

    /// Has the DTL node forget a volume.
    pub fn drop_tail(&self, request_json: &str) -> Result<()> {
        let request: TailRequest = parse("cannot drop a tail", request_json)?;
        let what = format!("cannot drop the tail of volume {}", request.uuid);
        let caller = self.caller(&request)?;
        let dropped = remove(&caller, Patience::default());
        dropped.map_err(|error| call_failed(&what, &request, &error))
    }

    /// Removes what this node's write buffer has of a volume that is not open here: leftovers of a
    /// time when it owned the volume, which might fit the end of the log.
    pub fn clear_buffer(&self, text: &str) -> Result<()> {
        let what = format!("cannot clear the write buffer of volume {text}");
        let id = uuid(text)?;
        let _claim = self.claim(&what, id)?;
        clear(&self.config.buffer_dir, &id).map_err(|error| {
            let fix = "check the write buffer's disk and try again";
            Error::new("STORE", &what, error.to_string(), fix)
        })
    }

    /// This node's lease ends at that moment of the clock that counts since the machine's boot.
    ///
    /// `term`: another one when the lease was over before. What is open from then stops.
    pub fn extend_lease(&self, end_ns: u64, term: u64) {
        self.lease.extend(Granted { end_ns, term });
        // A shard that sleeps until the old end has to learn of an earlier one.
        for mailbox in &self.mailboxes {
            mailbox.send(Command::Lease);
        }
    }

    /// The term of the lease, which holds, and is the one that is asked for.
    pub(crate) fn check_lease(&self, what: &str, asked: Option<u64>) -> Result<u64> {
        let lease = self.lease.granted();
        if lease.is_over() || asked.is_some_and(|term| term != lease.term) {
            let why = "this node's lease in the registry has ended";
            return Err(Error::new("LEASE", what, why, "renew the lease first"));
        }
        Ok(lease.term)
    }

    /// What `status` says about the tails that are kept here.
    pub(crate) fn dtl_server(&self) -> Result<serde_json::Value> {
        let Some(address) = self.dtl_address else { return Ok(serde_json::Value::Null) };
        let (mut volumes, mut bytes) = (0, 0);
        for shard in 0..self.mailboxes.len() {
            let (some, more) = self.ask(shard, |reply| Command::DtlUsage { reply })?;
            (volumes, bytes) = (volumes + some, bytes + more);
        }
        Ok(json!({"address": address.to_string(), "volumes": volumes, "bytes": bytes}))
    }
}

/// Undoes what a takeover that was cut short has left in the folder of write buffers; earlier
/// releases did not exchange the folders in one step, and left ".replaced" ones.
pub(crate) fn undo_leftovers(config: &Config) -> std::result::Result<(), media::StoreError> {
    let dir = Dir::at(&config.buffer_dir);
    let names = dir.list()?;
    for name in &names {
        let Some(volume) = name.strip_suffix(".replaced") else { continue };
        if !names.iter().any(|other| other == volume) {
            media::rename(&dir.join(name), &dir.join(volume))?;
        }
    }
    for name in names {
        if name.ends_with(".fetched") || name.ends_with(".replaced") {
            Dir::at(&dir.join(&name)).remove_all()?;
        }
    }
    dir.sync()
}
