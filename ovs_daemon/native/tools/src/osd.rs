//! OSDs: claiming a folder, and repairing a cluster while its daemon is stopped.

use std::path::{Path, PathBuf};

use alba::Cluster;
use alba::cluster::{OsdPlace, new_osd_id};
use alba::folder::{FolderOsd, read_claim};
use alba::preset::Preset;
use format::osd::{Claim, Role};
use media::{File, StoreError};

use crate::USAGE;
use crate::report::{Report, uuid};

/// `claim DIR LIKE DOMAIN/NODE`: makes a folder an OSD of the cluster that an OSD belongs to.
pub(crate) fn claim(words: &[String]) -> Result<(), String> {
    let [folder, like, place] = words else { return Err(USAGE.to_owned()) };
    let (domain, node) = place.split_once('/').ok_or(USAGE)?;
    let other = read_claim(Path::new(like)).map_err(|e| e.to_string())?;
    let other = other.ok_or_else(|| format!("{like} is no OSD: it has no claim"))?;
    let osd = new_osd_id().map_err(|e| e.to_string())?;
    let (domain, node) = (domain.to_owned(), node.to_owned());
    let claim = Claim { cluster: other.cluster, osd, domain, node, role: Role::Capacity };
    let claim = FolderOsd::claim(Path::new(folder), &claim).map_err(|e| e.to_string())?;
    println!("{folder}: OSD {} of cluster {}", uuid(&claim.osd), uuid(&claim.cluster));
    Ok(())
}

/// `repair DIR...`: computes what is missing on these OSDs, which are the whole cluster.
pub(crate) fn repair(words: &[String]) -> Result<bool, String> {
    if words.is_empty() {
        return Err(USAGE.to_owned());
    }
    let mut places = Vec::new();
    for path in words.iter().map(PathBuf::from) {
        let claim = read_claim(&path).map_err(|e| e.to_string())?;
        let claim = claim.ok_or_else(|| format!("{} is no OSD: claim it first", path.display()))?;
        places.push(OsdPlace { path, domain: claim.domain, node: claim.node });
    }
    let preset = Preset::shipped().remove(0);
    let cluster = Cluster::open(&places, preset, 0).map_err(|e| e.to_string())?;
    let done = cluster.repair().map_err(|e| e.to_string())?;
    println!("objects                {}", done.objects);
    println!("fragments restored     {}", done.mended.fragments);
    println!("fragments missing      {}", done.mended.unplaced);
    println!("objects lost           {}", done.lost);
    println!("bytes between Domains  {}", done.mended.between_domains);
    Ok(done.mended.unplaced == 0 && done.lost == 0)
}

/// The claim of an OSD.
pub(crate) fn look(file: &File, report: &mut Report) -> Result<(), StoreError> {
    report.kind = "claim of an OSD";
    let mut page = vec![0; format::log::PAGE];
    file.read_some_at(0, &mut page)?;
    match Claim::decode(&page) {
        Ok(claim) => {
            report.fact("cluster", uuid(&claim.cluster));
            report.fact("OSD", uuid(&claim.osd));
            report.fact("Domain", claim.domain);
            report.fact("node", claim.node);
            report.fact("role", claim.role.text());
        }
        Err(why) => report.damage(0, why.to_string()),
    }
    Ok(())
}
