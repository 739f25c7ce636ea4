//! Collects the file and the environment, and refuses keys that nobody knows.

use std::collections::BTreeMap;
use std::path::Path;

use config::{Environment, File, FileFormat, Map, Source, Value, ValueKind};

use super::{Config, ConfigError, Peer, Trunk, User, Webhook, profile};

/// What the standard library says of an address without its port.
const NO_SOCKET: &str = "invalid socket address syntax";

/// Sections that hold sections with names of the user's choice.
const NAMED: [&str; 5] = ["peer", "trunk", "user", "profile", "webhook"];

/// Where the TOML is.
pub(super) enum Toml<'a> {
    /// In a file.
    File(&'a Path),
    /// Here.
    Text(&'a str),
}

/// What may be written: every key, and whether it is a list. `*` stands for a name of the user's choice.
pub(super) fn known_keys() -> BTreeMap<String, bool> {
    let mut defaults = serde_json::to_value(Config::default()).unwrap_or_default();
    defaults["trunk.*"] = serde_json::to_value(Trunk::default()).unwrap_or_default();
    defaults["peer.*"] = serde_json::to_value(Peer::default()).unwrap_or_default();
    defaults["user.*"] = serde_json::to_value(User::default()).unwrap_or_default();
    defaults["webhook.*"] = serde_json::to_value(Webhook::default()).unwrap_or_default();
    defaults["profile.*"] = defaults["context"].clone();
    defaults["profile.*"]["peers"] = serde_json::json!([]);
    let sections = defaults.as_object().into_iter().flatten();
    sections
        .flat_map(|(section, keys)| {
            keys.as_object()
                .into_iter()
                .flatten()
                .map(move |(key, value)| (format!("{section}.{key}"), value.is_array()))
        })
        .collect()
}

/// Reads both sources; `environment` replaces the process's own.
pub(super) fn read(toml: Option<Toml<'_>>, environment: Option<Map<String, String>>) -> Result<Config, ConfigError> {
    let known = known_keys();
    let variables =
        Variables { environment, lists: known.iter().filter(|key| *key.1).map(|key| key.0.clone()).collect() };
    let mut unknown = Vec::new();
    let mut builder = config::Config::builder();
    if let Some(toml) = toml {
        let (values, origin) = match toml {
            Toml::File(path) => {
                (File::from(path).format(FileFormat::Toml).required(true).collect(), path.display().to_string())
            }
            Toml::Text(text) => (File::from_str(text, FileFormat::Toml).collect(), "the text".to_owned()),
        };
        let values = values.map_err(|error| ConfigError::Unreadable(error.to_string()))?;
        unknown.extend(
            strangers(&values, &known).iter().map(|key| complaint(key, &format!("`{key}` in {origin}"), &known)),
        );
        builder = builder.add_source(Collected(values));
    }
    let values = variables.collect().map_err(|error| ConfigError::Unreadable(error.to_string()))?;
    unknown.extend(values.keys().filter(|key| !known.contains_key(&general(key)) && !in_row(key)).map(|key| {
        let variable = format!("SWITCHBACK__{}", key.to_uppercase().replace('.', "__"));
        complaint(key, &format!("the environment variable {variable}"), &known)
    }));
    if !unknown.is_empty() {
        unknown.sort();
        return Err(ConfigError::UnknownKeys(unknown));
    }
    let unreadable = |error: config::ConfigError| {
        let text = error.to_string();
        ConfigError::Unreadable(text.replace(NO_SOCKET, "an IP address and a port are due: write \"192.0.2.1:5060\""))
    };
    let values = builder.add_source(variables).build().and_then(|built| built.collect()).map_err(unreadable)?;
    let completed = Collected(profile::complete(values)?);
    let built = config::Config::builder().add_source(completed).build();
    built.and_then(config::Config::try_deserialize).map_err(unreadable)
}

/// A key with the name in it, if one belongs there, as `known_keys` has it.
pub(super) fn general(key: &str) -> String {
    match key.split_once('.') {
        Some((section, rest)) if NAMED.contains(&section) => match rest.split_once('.') {
            Some((_, key)) => format!("{section}.*.{key}"),
            None => key.to_owned(),
        },
        _ => key.to_owned(),
    }
}

/// Sections whose rows have names or numbers of their own: what may stand in a row is said where it is read.
const ROWS: [&str; 2] = ["rule", "target"];

/// Whether a key lies in such a row.
fn in_row(key: &str) -> bool {
    key.split_once('.').is_some_and(|(section, _)| ROWS.contains(&section))
}

/// Keys of a nested table that are not known.
fn strangers(values: &Map<String, Value>, known: &BTreeMap<String, bool>) -> Vec<String> {
    let is_section = |name: &str| known.keys().any(|key| key.split('.').next() == Some(name));
    let mut strangers = Vec::new();
    for (section, value) in values {
        match &value.kind {
            ValueKind::Table(named) if NAMED.contains(&section.as_str()) => {
                for (name, value) in named {
                    let keys = value.clone().into_table().unwrap_or_default();
                    let keys = keys.keys().map(|key| format!("{section}.{name}.{key}"));
                    strangers.extend(keys.filter(|key| !known.contains_key(&general(key))));
                    if !matches!(value.kind, ValueKind::Table(_)) {
                        strangers.push(format!("{section}.{name}"));
                    }
                }
            }
            ValueKind::Table(_) | ValueKind::Array(_) if ROWS.contains(&section.as_str()) => {}
            ValueKind::Table(keys) if is_section(section) => strangers
                .extend(keys.keys().map(|key| format!("{section}.{key}")).filter(|key| !known.contains_key(key))),
            _ => strangers.push(section.clone()),
        }
    }
    strangers
}

/// One message about one unknown key.
fn complaint(key: &str, place: &str, known: &BTreeMap<String, bool>) -> String {
    if let Some((section, rest)) =
        key.split_once('.').filter(|(section, rest)| NAMED.contains(section) && !rest.contains('.'))
    {
        return format!("{place} stands in no {section}: each has a name; write [{section}.main] above {rest}");
    }
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let likeness = |candidate: &str| {
        let whole = strsim::normalized_damerau_levenshtein(key, candidate);
        let word = strsim::normalized_damerau_levenshtein(&last(key), &last(candidate));
        whole.max(word * 0.9)
    };
    let nearest = known.keys().map(|candidate| (likeness(candidate), candidate)).max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((likeness, nearest)) if likeness > 0.5 => format!("{place} is not known; did you mean `{nearest}`?"),
        _ => format!("{place} is not known; deploy/switchback.toml lists every key"),
    }
}

/// A source that has been read already, so that a file is read once.
#[derive(Debug, Clone)]
struct Collected(Map<String, Value>);

impl Source for Collected {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        Ok(self.0.clone())
    }
}

/// `SWITCHBACK__SECTION__KEY`. Values stay texts (a caller id begins with a plus sign and is no number); the keys that
/// are lists are split at commas.
#[derive(Debug, Clone)]
struct Variables {
    environment: Option<Map<String, String>>,
    lists: Vec<String>,
}

impl Source for Variables {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        let mut values = Environment::with_prefix("SWITCHBACK")
            .prefix_separator("__")
            .separator("__")
            .source(self.environment.clone())
            .collect()?;
        for (key, value) in &mut values {
            if self.lists.contains(&general(key)) {
                let text = value.clone().into_string()?;
                let items: Vec<String> =
                    text.split(',').map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect();
                *value = Value::new(value.origin().map(str::to_owned).as_ref(), items);
            }
        }
        Ok(values)
    }
}
