//! `encode` and `decode`: the erasure code on plain files.

use std::path::{Path, PathBuf};

use alba::code::Codec;
use alba::pieces::{Fragment, Label, decode_object, encode_object};
use format::fragment::NAME_MAX;
use machines::alba::{Cut, Layout, UNIT};
use media::{Dir, File};

use crate::USAGE;

struct Order {
    layout: Layout,
    fragment_size: u64,
    file: PathBuf,
    folder: PathBuf,
}

fn number<T: std::str::FromStr>(word: Option<&String>) -> Result<T, String> {
    let word = word.ok_or(USAGE)?;
    word.parse().map_err(|_| format!("{word:?} is not a number of this size"))
}

fn order(words: &[String]) -> Result<Order, String> {
    let (mut domains, mut local, mut fragment_size) = (1, 0, 4 << 20);
    let mut places = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--domains" => domains = number(words.next())?,
            "--local" => local = number(words.next())?,
            "--fragment-size" => fragment_size = number(words.next())?,
            _ => places.push(word),
        }
    }
    let [code, file, folder] = places[..] else { return Err(USAGE.to_owned()) };
    let (data, parity) = code.split_once('+').ok_or(USAGE)?;
    let data = number(Some(&data.to_owned()))?;
    let parity = number(Some(&parity.to_owned()))?;
    let layout = Layout::new(data, parity, domains, local)
        .map_err(|why| format!("there is no code {code} over {domains} with {local}: {why}"))?;
    if !(UNIT..=1 << 30).contains(&fragment_size) {
        return Err(format!("{fragment_size} bytes is no fragment size: 4 KiB to 1 GiB"));
    }
    Ok(Order { layout, fragment_size, file: file.into(), folder: folder.into() })
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let whole = || {
        let file = File::open_read(path)?;
        let mut bytes = vec![0; file.len()? as usize];
        file.read_bytes_at(0, &mut bytes)?;
        Ok(bytes)
    };
    whole().map_err(|e: media::StoreError| e.to_string())
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let whole = || {
        let file = File::create_new(path)?;
        file.write_bytes_at(0, bytes)?;
        file.datasync()
    };
    whole().map_err(|e: media::StoreError| e.to_string())
}

pub(crate) fn encode(words: &[String]) -> Result<(), String> {
    let order = order(words)?;
    let name = order.file.file_name().unwrap_or_default().to_string_lossy();
    if name.len() > NAME_MAX {
        return Err(format!("the name of {} is too long", order.file.display()));
    }
    let folder = Dir::create(&order.folder).map_err(|e| e.to_string())?;
    let object = read(&order.file)?;
    let codec = Codec::new(order.layout);
    let object_len = object.len() as u64;
    let acknowledge = codec.layout().data() as u8 + 1;
    let label = Label { object: &name, object_len, acknowledge, generation: 0, sealed: false };
    let cut = Cut::new(codec.layout(), object_len, order.fragment_size);
    for fragment in encode_object(&codec, &label, &object, &cut).map_err(|e| e.to_string())? {
        let header = &fragment.header;
        let path = folder.join(&format!("{:08x}.{:02}", header.piece, header.fragment));
        write(&path, &fragment.encode())?;
    }
    folder.sync().map_err(|e| e.to_string())
}

pub(crate) fn decode(words: &[String]) -> Result<(), String> {
    let [folder, file] = words else { return Err(USAGE.to_owned()) };
    let folder = Dir::at(Path::new(folder));
    let mut fragments = Vec::new();
    for name in folder.list().map_err(|e| e.to_string())? {
        let path = folder.join(&name);
        match Fragment::decode(&read(&path)?) {
            Ok(fragment) => fragments.push(fragment),
            Err(why) => eprintln!("not used: {}: {why}", path.display()),
        }
    }
    let object = decode_object(fragments)
        .map_err(|why| format!("cannot decode {}: {why}", folder.path().display()))?;
    write(Path::new(file), &object)
}
