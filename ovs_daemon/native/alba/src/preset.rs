//! Presets: policies in order of preference, and the sizes of fragments and SCOs.
//!
//! The first policy that the cluster can satisfy is used. So a list ends with policies that smaller
//! clusters, or a cluster that has lost a Domain, can satisfy.

use std::fmt::{self, Write};

use format::seal::{Compression, Encryption};
use machines::alba::{Disk, Layout, Policy, Shortage, place};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const SHIPPED: &str = include_str!("presets.json");
const NAME_MAX: usize = 63;
const POLICIES_MAX: usize = 16;

/// A preset as people write it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct PresetSpec {
    name: String,
    policies: Vec<PolicySpec>,
    fragment_size: u64,
    sco_size: u64,
    #[serde(default = "none", skip_serializing_if = "is_none")]
    compression: String,
    #[serde(default = "none", skip_serializing_if = "is_none")]
    encryption: String,
    #[serde(default, skip_serializing_if = "is_false")]
    cache_on_write: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
fn is_false(value: &bool) -> bool {
    !value
}

fn none() -> String {
    "none".to_owned()
}

fn is_none(text: &str) -> bool {
    text == "none"
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct PolicySpec {
    k: u8,
    m: u8,
    c: u8,
    x: u8,
    domains: u8,
    local: u8,
}

/// A preset that makes sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preset {
    /// Its name.
    pub name: String,
    /// In order of preference.
    pub policies: Vec<Policy>,
    /// Bytes that a fragment should have (see `machines::alba::Cut`).
    pub fragment_size: u64,
    /// Bytes of data in a SCO.
    pub sco_size: u64,
    /// How objects are compressed.
    pub compression: Compression,
    /// How objects are encrypted.
    pub encryption: Encryption,
    /// Whether objects are brought to the cache tier when they are put.
    pub cache_on_write: bool,
}

/// What is wrong with a preset, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresetError {
    /// What is wrong.
    pub why: String,
    /// What to do about it.
    pub fix: &'static str,
}

impl fmt::Display for PresetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.why, self.fix)
    }
}

impl std::error::Error for PresetError {}

fn wrong(why: String, fix: &'static str) -> PresetError {
    PresetError { why, fix }
}

fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    name.len() <= NAME_MAX
        && name.chars().all(plain)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}

impl Preset {
    /// Reads and checks the JSON form.
    pub fn parse(json: &str) -> Result<Self, PresetError> {
        let spec = serde_json::from_str(json).map_err(|e| {
            wrong(format!("it is no preset: {e}"), "see doc/presets.md for the fields")
        })?;
        Self::check(spec)
    }

    fn check(spec: PresetSpec) -> Result<Self, PresetError> {
        if !is_name(&spec.name) {
            let why = format!("{:?} is no name for a preset", spec.name);
            return Err(wrong(why, "use up to 63 letters, digits, '.', '_' and '-'"));
        }
        if spec.policies.is_empty() || spec.policies.len() > POLICIES_MAX {
            let why = format!("it has {} policies", spec.policies.len());
            return Err(wrong(why, "give 1 to 16, the preferred one first"));
        }
        let mut policies = Vec::with_capacity(spec.policies.len());
        for (number, one) in spec.policies.iter().enumerate() {
            let policy = Layout::new(one.k, one.m, one.domains, one.local)
                .map_err(Into::into)
                .and_then(|layout| Policy::new(layout, one.c, one.x))
                .map_err(|why: machines::alba::PolicyError| {
                    let why = format!("its policy {} cannot be: {why}", number + 1);
                    wrong(why, "correct the policy, or leave it out")
                })?;
            if policies.contains(&policy) {
                let why = format!("its policy {} is there twice", number + 1);
                return Err(wrong(why, "leave one of them out"));
            }
            policies.push(policy);
        }
        check_size("fragment_size", spec.fragment_size, 64 << 10, 64 << 20)?;
        check_size("sco_size", spec.sco_size, 1 << 20, 256 << 20)?;
        let compression = one_of("compression", &spec.compression, &COMPRESSIONS)?;
        let encryption = one_of("encryption", &spec.encryption, &ENCRYPTIONS)?;
        let PresetSpec { name, fragment_size, sco_size, cache_on_write, .. } = spec;
        Ok(Self {
            name,
            policies,
            fragment_size,
            sco_size,
            compression,
            encryption,
            cache_on_write,
        })
    }

    /// The one that a configuration means: the name of a shipped one, or its JSON form.
    pub fn find(value: &Value) -> Result<Self, PresetError> {
        let Some(name) = value.as_str() else { return Self::parse(&value.to_string()) };
        let found = Self::shipped().into_iter().find(|preset| preset.name == name);
        found.ok_or_else(|| {
            let why = format!("no preset {name:?} comes with the program or was created");
            wrong(why, "name one of those that 'vstorage preset list' shows")
        })
    }

    /// The JSON form.
    pub fn to_json(&self) -> String {
        let spec = PresetSpec {
            name: self.name.clone(),
            policies: self.policies.iter().map(spec_of).collect(),
            fragment_size: self.fragment_size,
            sco_size: self.sco_size,
            compression: name_of(self.compression, &COMPRESSIONS).to_owned(),
            encryption: name_of(self.encryption, &ENCRYPTIONS).to_owned(),
            cache_on_write: self.cache_on_write,
        };
        serde_json::to_string(&spec).expect("plain data")
    }

    /// Whether objects are sealed (see `format::seal`), not stored as they are.
    pub fn seals(&self) -> bool {
        self.compression != Compression::None || self.encryption != Encryption::None
    }

    /// The presets that come with the program.
    pub fn shipped() -> Vec<Self> {
        let specs: Vec<PresetSpec> = serde_json::from_str(SHIPPED).expect("tested below");
        specs.into_iter().map(|spec| Self::check(spec).expect("tested below")).collect()
    }

    /// The first policy that these disks satisfy and what was missing for those before it; for all
    /// of them, when no policy is left.
    pub fn choose(&self, disks: &[Disk]) -> (Option<&Policy>, Vec<Shortage>) {
        let mut shortages = Vec::new();
        for policy in &self.policies {
            match place(policy, disks, 0) {
                Ok(_) => return (Some(policy), shortages),
                Err(shortage) => shortages.push(shortage),
            }
        }
        (None, shortages)
    }
}

fn spec_of(policy: &Policy) -> PolicySpec {
    let layout = policy.layout();
    let [k, m, c, x, domains, local] = [
        layout.data(),
        layout.parity(),
        policy.acknowledge(),
        policy.node_max(),
        layout.domains(),
        layout.local(),
    ]
    .map(|count| count as u8);
    PolicySpec { k, m, c, x, domains, local }
}

const COMPRESSIONS: [(&str, Compression); 3] =
    [("none", Compression::None), ("lz4", Compression::Lz4), ("zstd", Compression::Zstd)];
const ENCRYPTIONS: [(&str, Encryption); 2] =
    [("none", Encryption::None), ("aes-256-gcm", Encryption::Aes256Gcm)];

fn one_of<T: Copy>(field: &str, text: &str, known: &[(&str, T)]) -> Result<T, PresetError> {
    let found = known.iter().find(|(name, _)| *name == text);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        let why = format!("its {field} is {text:?}, not one of {}", names.join(", "));
        wrong(why, "choose one of them")
    })
}

fn name_of<T: Copy + PartialEq>(value: T, known: &[(&'static str, T)]) -> &'static str {
    known.iter().find(|(_, one)| *one == value).map_or("none", |(name, _)| name)
}

fn check_size(name: &str, size: u64, least: u64, most: u64) -> Result<(), PresetError> {
    if size.is_power_of_two() && (least..=most).contains(&size) {
        return Ok(());
    }
    let why = format!("its {name} of {size} bytes is no power of two from {least} to {most}");
    Err(wrong(why, "choose one, such as 4194304 for fragments and 67108864 for SCOs"))
}

#[derive(Deserialize)]
struct Nodes {
    domain: String,
    node: String,
    disks: u32,
}

/// A preset with what each policy promises, in JSON: its fields, and for each policy `notation`,
/// `overhead` and what `machines::alba::Promise` says.
pub fn describe_json(preset: &str) -> Result<String, PresetError> {
    let preset = Preset::parse(preset)?;
    let policies: Vec<Value> = preset.policies.iter().map(describe).collect();
    let Preset { name, fragment_size, sco_size, compression, encryption, cache_on_write, .. } =
        preset;
    let value = json!({
        "name": name, "policies": policies, "fragment_size": fragment_size, "sco_size": sco_size,
        "compression": name_of(compression, &COMPRESSIONS),
        "encryption": name_of(encryption, &ENCRYPTIONS),
        "cache_on_write": cache_on_write,
    });
    Ok(value.to_string())
}

/// Which policy a cluster satisfies, in JSON: `{"policy": described or null, "number": from 1 or
/// null, "shortages": [why not, for each policy before it]}`. `cluster`: `[{"domain", "node",
/// "disks"}]`.
pub fn judge_json(preset: &str, cluster: &str) -> Result<String, PresetError> {
    let preset = Preset::parse(preset)?;
    let nodes: Vec<Nodes> = serde_json::from_str(cluster).map_err(|e| {
        wrong(format!("the cluster cannot be read: {e}"), "give a list of domain, node, disks")
    })?;
    let mut domains: Vec<&str> = nodes.iter().map(|node| node.domain.as_str()).collect();
    domains.sort_unstable();
    domains.dedup();
    let mut names: Vec<&str> = nodes.iter().map(|node| node.node.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let place = |list: &[&str], name: &str| list.iter().position(|one| *one == name);
    let mut disks = Vec::new();
    for node in &nodes {
        for _ in 0..node.disks {
            disks.push(Disk {
                id: disks.len() as u64,
                domain: place(&domains, &node.domain).unwrap_or(0) as u32,
                node: place(&names, &node.node).unwrap_or(0) as u32,
            });
        }
    }
    let (policy, shortages) = preset.choose(&disks);
    let shortages: Vec<String> = shortages.iter().map(Shortage::to_string).collect();
    let value = json!({
        "policy": policy.map(describe),
        "number": policy.map(|_| shortages.len() + 1),
        "shortages": shortages,
    });
    Ok(value.to_string())
}

/// The shipped presets, in JSON.
pub fn shipped_json() -> &'static str {
    SHIPPED
}

fn describe(policy: &Policy) -> Value {
    let PolicySpec { k, m, c, x, domains, local } = spec_of(policy);
    let promise = policy.promise();
    let overhead = policy.layout().fragments() as f64 / policy.layout().data() as f64;
    json!({
        "k": k, "m": m, "c": c, "x": x, "domains": domains, "local": local,
        "notation": notation(policy),
        "overhead": (overhead * 100.0).round() / 100.0,
        "survives_disks": promise.disks,
        "survives_node": promise.node,
        "survives_domain": promise.domain,
        "survives_domain_and_disk": promise.domain_and_disk,
        "disk_repair_local": promise.disk_repair_local,
        "node_repair_local": promise.node_repair_local,
        "repair_reads": promise.repair_reads,
    })
}

/// The policy in the notation of this project: `4+2 over 3 Domains, 1 local`.
pub fn notation(policy: &Policy) -> String {
    let layout = policy.layout();
    let domains = match layout.domains() {
        1 => "1 Domain".to_owned(),
        several => format!("{several} Domains"),
    };
    let mut text = format!("{}+{} over {domains}", layout.data(), layout.parity());
    if layout.local() > 0 {
        let _ = write!(text, ", {} local", layout.local());
    }
    text
}

/// The sizing table of some presets, in Markdown.
pub fn sizing_table(presets: &[Preset]) -> String {
    let mut table = String::from(
        "| preset | policy | c | x | disks (nodes) in each Domain | overhead | any disks | a node | \
         a Domain | a Domain and a disk | a lost fragment is computed from | between Domains, to \
         repair a disk / a node |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for preset in presets {
        for policy in &preset.policies {
            let (layout, promise) = (policy.layout(), policy.promise());
            let group = layout.largest_group() + layout.local();
            let yes = |is: bool| if is { "yes" } else { "no" };
            let zero = |local: bool| if local { "0 bytes" } else { "some" };
            let _ = writeln!(
                table,
                "| {} | {} | {} | {} | {group} ({}) | {:.2} | {} | {} | {} | {} | {} | {} / {} |",
                preset.name,
                notation(policy),
                policy.acknowledge(),
                policy.node_max(),
                group.div_ceil(policy.node_max()),
                layout.fragments() as f64 / layout.data() as f64,
                promise.disks,
                yes(promise.node),
                yes(promise.domain),
                yes(promise.domain_and_disk),
                promise.repair_reads,
                zero(promise.disk_repair_local),
                zero(promise.node_repair_local),
            );
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn default() -> Preset {
        Preset::shipped().remove(0)
    }

    fn cluster(domains: u32, nodes: u32, each: u32) -> Vec<Disk> {
        let all = 0..domains * nodes * each;
        all.map(|id| Disk { id: id.into(), domain: id / (nodes * each), node: id / each }).collect()
    }

    #[test]
    fn shipped_presets_are_sound_and_survive_json() {
        let shipped = Preset::shipped();
        assert!(shipped.len() >= 3);
        for preset in shipped {
            assert_eq!(Preset::parse(&preset.to_json()), Ok(preset));
        }
    }

    #[test]
    fn the_first_policy_that_fits_is_used() {
        let default = default();
        let chosen = |domains, nodes, each| {
            let (policy, shortages) = default.choose(&cluster(domains, nodes, each));
            (policy.map(notation), shortages.len())
        };
        assert_eq!(chosen(3, 5, 4).0.as_deref(), Some("16+8 over 3 Domains, 2 local"));
        assert_eq!(chosen(3, 3, 1), (Some("4+2 over 3 Domains, 1 local".to_owned()), 2));
        assert_eq!(chosen(2, 3, 1), (Some("2+2 over 2 Domains, 1 local".to_owned()), 4));
        assert_eq!(chosen(1, 3, 1), (Some("2+1 over 1 Domain".to_owned()), 6));
        assert_eq!(chosen(1, 2, 1), (None, 7));
    }

    #[test]
    fn a_configuration_names_or_holds_one() {
        assert_eq!(Preset::find(&json!("default")), Ok(default()));
        let written: Value = serde_json::from_str(&default().to_json()).unwrap();
        assert_eq!(Preset::find(&written), Ok(default()));
        let error = Preset::find(&json!("nothing")).unwrap_err();
        assert!(error.why.contains("no preset \"nothing\""), "{error}");
    }

    #[test]
    fn compression_and_encryption_survive_json() {
        let preset = Preset {
            compression: Compression::Zstd,
            encryption: Encryption::Aes256Gcm,
            cache_on_write: true,
            ..default()
        };
        assert!(preset.seals() && !default().seals());
        let json = preset.to_json();
        assert!(json.contains("\"compression\":\"zstd\",\"encryption\":\"aes-256-gcm\""));
        assert!(json.contains("\"cache_on_write\":true"));
        assert!(!default().to_json().contains("cache_on_write"));
        assert_eq!(Preset::parse(&json), Ok(preset));
        assert!(describe_json(&json).unwrap().contains("\"encryption\":\"aes-256-gcm\""));
        assert!(describe_json(&default().to_json()).unwrap().contains("\"compression\":\"none\""));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let good = default().to_json();
        let why = |from: &str, to: &str| {
            assert!(good.contains(from), "{from} in {good}");
            Preset::parse(&good.replacen(from, to, 1)).unwrap_err().to_string()
        };
        assert!(why("\"default\"", "\"no way\"").contains("\"no way\" is no name"));
        assert!(why("\"c\":18", "\"c\":16").contains("policy 1 cannot be: c must be over k"));
        assert!(why("\"x\":2", "\"x\":9").contains("policy 1 cannot be: x is over both"));
        assert!(why("\"m\":8", "\"m\":17").contains("policy 1 cannot be: k + m is over 32"));
        assert!(why("4194304", "4000000").contains("fragment_size of 4000000 bytes"));
        assert!(why("67108864", "512").contains("sco_size of 512 bytes"));
        let packed =
            |how: &str| why("\"sco_size\"", &format!("\"compression\":\"{how}\",\"sco_size\""));
        assert!(packed("zip").contains("compression is \"zip\", not one of none, lz4, zstd"));
        let secret = why("\"sco_size\"", "\"encryption\":\"rot13\",\"sco_size\"");
        assert!(secret.contains("encryption is \"rot13\", not one of none, aes-256-gcm"));
        assert!(why("\"sco_size\"", "\"size\"").contains("it is no preset: unknown field `size`"));
        let mut twice = default();
        twice.policies.push(twice.policies[2]);
        let error = Preset::parse(&twice.to_json()).unwrap_err();
        assert_eq!(error.why, "its policy 8 is there twice");
        twice.policies.clear();
        assert_eq!(Preset::parse(&twice.to_json()).unwrap_err().why, "it has 0 policies");
    }

    /// `vstorage-offline presets` prints the table: put what it prints into the page.
    #[test]
    fn the_sizing_table_of_the_page_is_computed() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../doc/presets.md");
        let page = std::fs::read_to_string(path).expect("doc/presets.md is readable");
        let table = sizing_table(&Preset::shipped());
        assert!(page.contains(&table), "doc/presets.md needs this table:\n{table}");
        assert!(page.contains(SHIPPED.trim()), "doc/presets.md needs presets.json as it is");
    }
}
