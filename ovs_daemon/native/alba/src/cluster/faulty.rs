//! An OSD of a test that fails some requests, and is out of reach when it is told so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use format::osd::Claim;

use crate::Cause;
use crate::osd::{OBJECT, Osd, Reply, Request};

/// See the top of the file.
#[derive(Debug)]
pub(super) struct Faulty {
    osd: Arc<dyn Osd>,
    fails: fn(&Request) -> bool,
    up: Arc<AtomicBool>,
    /// It says that it fails; otherwise it does what it is asked for, and nobody hears of it.
    answers: bool,
}

impl Faulty {
    /// One that fails these requests.
    pub(super) fn always(osd: Arc<dyn Osd>, fails: fn(&Request) -> bool) -> Arc<dyn Osd> {
        Self::switched(osd, fails, &Arc::new(true.into()))
    }

    /// One that is out of reach besides while `up` is not set.
    pub(super) fn switched(
        osd: Arc<dyn Osd>,
        fails: fn(&Request) -> bool,
        up: &Arc<AtomicBool>,
    ) -> Arc<dyn Osd> {
        Arc::new(Self { osd, fails, up: up.clone(), answers: true })
    }

    /// One whose answers to these requests are lost.
    pub(super) fn unanswered(osd: Arc<dyn Osd>, fails: fn(&Request) -> bool) -> Arc<dyn Osd> {
        Arc::new(Self { osd, fails, up: Arc::new(true.into()), answers: false })
    }
}

/// It stores no fragment.
pub(super) fn puts(request: &Request) -> bool {
    matches!(request, Request::Put { .. })
}

/// It deletes nothing.
pub(super) fn deletes(request: &Request) -> bool {
    matches!(request, Request::Delete { .. } | Request::DeleteFolder { .. })
}

/// It does not say what it has of an object, as one that is too busy to answer in time.
pub(super) fn looks(request: &Request) -> bool {
    matches!(request, Request::Names { folder } if folder.ends_with(OBJECT))
}

/// It does what it is asked for.
pub(super) fn nothing(_: &Request) -> bool {
    false
}

impl Osd for Faulty {
    fn claim(&self) -> &Claim {
        self.osd.claim()
    }

    fn name(&self) -> String {
        self.osd.name()
    }

    fn reachable(&self) -> bool {
        self.up.load(Ordering::Relaxed) && self.osd.reachable()
    }

    fn trouble(&self) -> Option<String> {
        self.osd.trouble()
    }

    fn late_after(&self) -> Duration {
        self.osd.late_after()
    }

    fn start(&self, request: Request, reply: Reply) {
        match (self.fails)(&request) {
            true if self.answers => reply(Err(request.error(Cause::Failed, "on purpose"))),
            true => {
                let lost = Err(request.error(Cause::Unanswered, "the answer is lost"));
                self.osd.start(request, Box::new(move |_| reply(lost)));
            }
            false => self.osd.start(request, reply),
        }
    }
}

/// An OSD before which something is done for each request.
struct Before {
    osd: Arc<dyn Osd>,
    act: Box<dyn Fn(&Request) + Send + Sync>,
}

impl std::fmt::Debug for Before {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Before({:?})", self.osd)
    }
}

/// See [`Before`].
pub(super) fn before(osd: Arc<dyn Osd>, act: Box<dyn Fn(&Request) + Send + Sync>) -> Arc<dyn Osd> {
    Arc::new(Before { osd, act })
}

impl Osd for Before {
    fn claim(&self) -> &Claim {
        self.osd.claim()
    }

    fn name(&self) -> String {
        self.osd.name()
    }

    fn reachable(&self) -> bool {
        self.osd.reachable()
    }

    fn trouble(&self) -> Option<String> {
        self.osd.trouble()
    }

    fn late_after(&self) -> Duration {
        self.osd.late_after()
    }

    fn start(&self, request: Request, reply: Reply) {
        (self.act)(&request);
        self.osd.start(request, reply);
    }
}
