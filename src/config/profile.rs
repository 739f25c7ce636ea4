//! `[profile.NAME]`: what one receiver is sent, where it differs from `[context]`.
//!
//! A profile begins as `[context]` is written; a preset, if it names one, and then its own keys go on top. So does
//! `[context]` itself, from the defaults.

use config::{File, FileFormat, Map, Source, Value, ValueKind};
use serde::{Deserialize, Serialize};

use super::{Config, ConfigError, words};
use crate::b2bua::settings::Network;
use crate::call::rules::Pattern;
use crate::call::settings::ContextSettings;

/// The presets, each a section with the keys of `[context]`.
const PRESETS: &str = include_str!("presets.toml");

/// A receiver.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Profile {
    /// Whose calls it is for.
    #[serde(with = "words::networks")]
    pub peers: Vec<Network>,
    /// What is sent there.
    pub context: ContextSettings,
}

/// Completes `[context]` and every `[profile.NAME]` of a configuration that has been read.
pub(super) fn complete(mut values: Map<String, Value>) -> Result<Map<String, Value>, ConfigError> {
    let presets = presets()?;
    let context = table(values.remove("context"));
    let preset = |keys: &Table| match keys.get("preset") {
        None => Ok(Table::default()),
        Some(name) => {
            let found = presets.iter().find(|(known, _)| *known == name.to_string());
            let names = || presets.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
            let unknown = || ConfigError::Unreadable(format!("there is no preset `{name}`: write one of {}", names()));
            found.map(|(_, keys)| keys.clone()).ok_or_else(unknown)
        }
    };
    let completed = over(preset(&context)?, &context);
    let mut profiles = Table::default();
    for (name, row) in table(values.remove("profile")) {
        let mut row = table(Some(row));
        let peers = row.remove("peers").map(|peers| ("peers".to_owned(), peers));
        let base = if row.contains_key("preset") { &context } else { &completed };
        let keys = over(over(base.clone(), &preset(&row)?), &row);
        let whole: Table = peers.into_iter().chain([("context".to_owned(), Value::from(keys))]).collect();
        profiles.insert(name, Value::from(whole));
    }
    values.insert("context".to_owned(), Value::from(completed));
    values.insert("profile".to_owned(), Value::from(profiles));
    Ok(values)
}

type Table = Map<String, Value>;

fn presets() -> Result<Vec<(String, Table)>, ConfigError> {
    let read = File::from_str(PRESETS, FileFormat::Toml).collect();
    let sections = read.map_err(|error| ConfigError::Unreadable(error.to_string()))?;
    Ok(sections.into_iter().map(|(name, keys)| (name, table(Some(keys)))).collect())
}

fn over(mut base: Table, more: &Table) -> Table {
    base.extend(more.iter().map(|(key, value)| (key.clone(), value.clone())));
    base
}

fn table(value: Option<Value>) -> Table {
    match value.map(|value| value.kind) {
        Some(ValueKind::Table(table)) => table,
        _ => Table::default(),
    }
}

/// Reasons to refuse the profiles, or those who name one.
pub(super) fn problems(config: &Config, problems: &mut Vec<String>) {
    let named = config.target.iter().map(|(name, row)| (format!("target.{name}"), &row.profile));
    let named = named.chain(config.trunk.iter().map(|(name, row)| (format!("trunk.{name}"), &row.profile)));
    for (place, profile) in named.filter_map(|(place, profile)| Some((place, profile.as_ref()?))) {
        if !config.profile.contains_key(profile) {
            problems.push(format!(
                "{place}.profile = \"{profile}\" is not there: write [profile.{profile}] with preset = \"generic\", for one"
            ));
        }
    }
    for (at, rule) in config.rule.iter().enumerate() {
        let is_there = |pattern: &&Pattern| config.profile.keys().any(|name| pattern.matches(name));
        for Pattern(name) in rule.when.profile.iter().filter(|pattern| !is_there(pattern)) {
            problems.push(format!(
                "rule {}: when.profile = \"{name}\" is nobody's: write [profile.{name}] with peers = [\"192.0.2.10\"], for one",
                at + 1
            ));
        }
    }
    for (name, profile) in &config.profile {
        for network in &profile.peers {
            let heard = |listed: &Network| listed.prefix <= network.prefix && listed.contains(network.address);
            if !config.sip.access.iter().any(heard) {
                let network = words::Prefix(*network);
                problems
                    .push(format!("profile.{name}.peers holds {network}, who cannot call us: add it to sip.access"));
            }
            let twice = |other: &Network| other.prefix == network.prefix && other.contains(network.address);
            let earlier = config.profile.iter().take_while(|(other, _)| *other != name);
            if let Some((other, _)) = earlier.into_iter().find(|(_, other)| other.peers.iter().any(twice)) {
                let network = words::Prefix(*network);
                problems.push(format!("profile.{name}.peers and profile.{other}.peers both hold {network}: keep one"));
            }
        }
    }
}
