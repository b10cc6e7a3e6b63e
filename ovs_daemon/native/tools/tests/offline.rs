//! The tool on files that the real writers wrote: sound ones, and with every kind of damage.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use buffer::{LogBuffer, Tail, file_name};
use format::dtl::Fence;
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

/// A volume as its DTL node keeps it.
#[test]
fn the_folder_of_a_dtl_node_is_verified_as_a_whole() {
    let dir = scratch("dtl");
    write_sco(&dir.join("volume"));
    let mut fence = Fence { volume: [7; 16], epoch: 3, suspect: true }.encode();
    let path = dir.join("volume/fence");
    fs::write(&path, fence).unwrap();
    fs::write(dir.join("boot"), "the kernel's name for it").unwrap();
    let (status, text) = offline("verify", &dir);
    assert_eq!(status, 0, "{text}");
    assert!(text.contains("fence of a DTL node, sound"), "{text}");
    let (_, text) = offline("dump", &path);
    assert!(text.contains("epoch") && text.contains("suspect"), "{text}");
    fence[30] ^= 1;
    fs::write(&path, fence).unwrap();
    assert_eq!(offline("verify", &dir).0, 1);
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
fn a_file_becomes_fragments_and_comes_back() {
    let dir = scratch("fragments");
    fs::create_dir_all(&dir).unwrap();
    let (file, stored, back) = (dir.join("letter"), dir.join("stored"), dir.join("back"));
    let content: Vec<u8> = (0..100_000u32).map(|at| (at.wrapping_mul(at) >> 3) as u8).collect();
    fs::write(&file, &content).unwrap();
    let tool = || Command::new(env!("CARGO_BIN_EXE_vstorage-offline"));
    let encode = |code: &str, folder: &Path| {
        let options = ["--domains", "3", "--local", "1", "--fragment-size", "4096"];
        tool().args(["encode", code]).arg(&file).arg(folder).args(options).output().unwrap()
    };
    assert!(encode("4+2", &stored).status.success());
    let refused = encode("1+1", &dir.join("other"));
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("fewer fragments"));
    let (status, text) = offline("verify", &stored);
    assert_eq!(status, 0, "{text}");
    assert!(text.contains("4+2 over 3, 1 local"), "{text}");

    let fragment = stored.join("00000001.07");
    let sound = fs::read(&fragment).unwrap();
    for at in (0..sound.len()).step_by(101) {
        let mut damaged = sound.clone();
        damaged[at] ^= 1;
        fs::write(&fragment, &damaged).unwrap();
        let (status, text) = offline("verify", &fragment);
        assert_eq!(status, 1, "byte {at}: {text}");
    }
    // The damaged one is not used, and neither are a Domain and one of another.
    for lost in ["00000001.00", "00000001.03", "00000001.06", "00000001.02"] {
        fs::remove_file(stored.join(lost)).unwrap();
    }
    let decode = || tool().arg("decode").arg(&stored).arg(&back).output().unwrap();
    assert!(decode().status.success());
    assert_eq!(fs::read(&back).unwrap(), content);
    for lost in ["00000001.01", "00000001.05"] {
        fs::remove_file(stored.join(lost)).unwrap();
    }
    let refused = decode();
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("of piece 1 are too few"));
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
