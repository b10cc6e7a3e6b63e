//! How far an OSD is that leaves the cluster (`machines::alba::parting`).

use alba::Cluster;
use alba::cluster::Survey;
use machines::alba::{Proof, Standing, next_standing};
use serde_json::{Value, json};

/// See the top of the file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Farewell {
    standing: Standing,
    /// The number under which all had heard that it is lost, when the look began.
    heard: Option<u64>,
    /// What is known; `None`: it was not found out.
    proof: Option<Proof>,
    why: Option<String>,
}

impl Farewell {
    /// Looks. `seen`: what the last look at all objects has found, and the number under which all had
    /// heard, when it began, that the OSD is lost. `go_on` is asked from time to time.
    pub(crate) fn of(
        cluster: &Cluster,
        osd: &[u8; 16],
        standing: Standing,
        (seen, heard): (Option<&Survey>, Option<u64>),
        go_on: &mut dyn FnMut() -> bool,
    ) -> Self {
        let proof = match standing {
            Standing::Lost => Ok(seen.map(|survey| Proof {
                alone: 0,
                short: survey.short,
                hidden: survey.hidden,
                after: heard.is_some(),
            })),
            Standing::Sealed => cluster
                .seal(osd)
                .and_then(|()| cluster.alone_on(osd, go_on))
                .map(|alone| alone.map(|alone| Proof { alone, after: true, ..Proof::default() })),
            _ => {
                let alone = cluster.alone_on(osd, go_on);
                alone.map(|alone| alone.map(|alone| Proof { alone, ..Proof::default() }))
            }
        };
        match proof {
            Ok(proof) => Self { standing, heard, proof, why: None },
            Err(error) => Self { standing, heard, proof: None, why: Some(error.to_string()) },
        }
    }

    /// In JSON.
    pub(crate) fn told(&self) -> Value {
        let next = self.proof.and_then(|proof| next_standing(self.standing, &proof));
        json!({
            "standing": self.standing.name(),
            "next": next.map(Standing::name),
            "heard": self.heard,
            "alone": self.proof.map(|proof| proof.alone),
            "short": self.proof.map(|proof| proof.short),
            "hidden": self.proof.map(|proof| proof.hidden),
            "why": self.why,
        })
    }
}
