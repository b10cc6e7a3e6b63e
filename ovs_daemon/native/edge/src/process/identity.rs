//! `edge.id`: the name of this Edge towards engines, the same in all its lives but after a boot.
//!
//! An engine on another host may still have a connection of an earlier life. By the name, and by the
//! host in its token, it knows whose that is, and ends it before the new one works
//! (`machines::edge::Door`). The run directory is empty after a boot, and a name there another one:
//! nothing may depend on it alone.

use std::path::Path;

use media::{Dir, File, StoreError};

const NAME: &str = "edge.id";

/// The name in a run directory; made when there is none, or none that can be used.
pub(super) fn of(run_dir: &Path) -> Result<[u8; 16], StoreError> {
    let dir = Dir::at(run_dir);
    let mut name = [0; 16];
    match File::open_read(&dir.join(NAME)) {
        Ok(file) => {
            if file.len()? == 16 {
                file.read_bytes_at(0, &mut name)?;
                return Ok(name);
            }
        }
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error),
    }
    let name = net::random_name();
    let fresh = "edge.id.new";
    dir.unlink(fresh)?;
    let file = File::create_new(&dir.join(fresh))?;
    file.write_bytes_at(0, &name)?;
    file.datasync()?;
    media::rename(&dir.join(fresh), &dir.join(NAME))?;
    dir.sync()?;
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_and_half_a_name_is_replaced() {
        let folder = std::env::temp_dir().join(format!("ovs-edge-id-{}", std::process::id()));
        let dir = Dir::create(&folder).unwrap();
        let first = of(&folder).unwrap();
        assert_eq!(of(&folder).unwrap(), first);
        dir.unlink(NAME).unwrap();
        File::create_new(&dir.join(NAME)).unwrap().write_bytes_at(0, b"half").unwrap();
        let second = of(&folder).unwrap();
        assert_ne!(second, first);
        assert_eq!(of(&folder).unwrap(), second);
        dir.remove_all().unwrap();
    }
}
