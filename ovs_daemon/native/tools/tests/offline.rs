//! The tool on files that the real writers wrote: sound ones, and with every kind of damage.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use buffer::{LogBuffer, Tail, file_name};
use format::entry::Entry;
use format::log::PAGE;
use media::{File, Slice};

fn scratch(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("ovs-offline-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    path
}

/// Two batches in one SCO file; returns its path.
fn write_sco(dir: &Path) -> PathBuf {
    let tail = Tail { log: [7; 16], epoch: 3, sequence: 0, crc: 0 };
    let mut log = LogBuffer::open(dir, tail, &[], &[]).unwrap();
    let path = dir.join(file_name(1));
    log.add_empty(1, File::create_new(&path).unwrap());
    for sequence in 1..=2 {
        let data = [Slice::copy_of(&[sequence as u8; 2 * PAGE]).unwrap()];
        let entries = [Entry::Data { lba: 10 * sequence, clusters: 2 }];
        log.append(sequence, sequence - 1, &entries, &data).unwrap();
    }
    path
}

fn offline(verb: &str, path: &Path) -> (i32, String) {
    let tool = env!("CARGO_BIN_EXE_vstorage-offline");
    let output = Command::new(tool).arg(verb).arg(path).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap_or(-1), text.into_owned())
}

#[test]
fn a_sound_file_is_dumped_and_verified() {
    let dir = scratch("sound");
    let path = write_sco(&dir);
    let (status, text) = offline("dump", &path);
    assert_eq!(status, 0, "{text}");
    for word in ["SCO file, sound", "07070707-0707", "lba 10 + 2", "lba 20 + 2", "batch 2 epoch 3"]
    {
        assert!(text.contains(word), "{word} is missing in {text}");
    }
    let (status, text) = offline("verify", &dir);
    assert_eq!(status, 0, "{text}");
    assert!(text.contains("write buffer of a volume, sound"), "{text}");
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn every_flipped_byte_is_found() {
    let dir = scratch("damaged");
    let path = write_sco(&dir);
    let sound = fs::read(&path).unwrap();
    for at in (0..sound.len()).step_by(509) {
        let mut damaged = sound.clone();
        damaged[at] ^= 0x10;
        fs::write(&path, &damaged).unwrap();
        let (status, text) = offline("verify", &path);
        assert_eq!(status, 1, "byte {at}: {text}");
        assert!(text.contains("DAMAGED") && text.contains("at byte"), "{text}");
    }
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn what_is_no_such_file_is_said_to_be_none() {
    let dir = scratch("strange");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("letter"), b"dear reader").unwrap();
    let (status, text) = offline("verify", &dir.join("letter"));
    assert_eq!(status, 1, "{text}");
    assert!(text.contains("neither a SCO file"), "{text}");
    let (status, text) = offline("verify", &dir.join("nothing"));
    assert_eq!(status, 2, "{text}");
    assert!(text.contains("nothing"), "{text}");
    assert_eq!(offline("improve", &dir).0, 2);
    fs::remove_dir_all(dir).unwrap();
}
