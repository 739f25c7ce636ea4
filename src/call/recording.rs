//! Which calls are recorded, and what of it their parties are told.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::event::CallAction;
use super::intake::Intake;
use super::rules::{Entry, Pattern, any, named_patterns, one_or_many};
use super::settings::CallSettings;
use super::state::Facts;

/// What is decided about recordings before there is a call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordingSettings {
    /// Whether there is a place for them.
    pub kept: bool,
    /// Calls that fit one of these are recorded without being asked for.
    pub occasions: Vec<Occasion>,
    /// Header by which the customer's side, with our answer, and an onward party, with our INVITE, are told; empty: they
    /// are not.
    pub header: String,
}

/// Calls that are recorded from GenerativeAgent's answer on. An absent condition is met by everyone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Occasion {
    /// How the call came to us.
    pub entry: Option<Entry>,
    /// One of these tasks was asked for.
    #[serde(deserialize_with = "one_or_many")]
    pub task: Vec<Pattern>,
    /// One of these users was dialled.
    #[serde(deserialize_with = "one_or_many")]
    pub dialled: Vec<Pattern>,
    /// Each of these input variables is there with one of these values.
    #[serde(deserialize_with = "named_patterns")]
    pub variables: BTreeMap<String, Vec<Pattern>>,
}

/// Whether a call is recorded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Recording {
    /// Nobody wants it, or nobody does any more.
    #[default]
    Off,
    /// From GenerativeAgent's answer on.
    Due,
    /// Now.
    On,
}

impl RecordingSettings {
    /// What is due to a call that begins like this.
    pub fn of(&self, intake: &Intake, entry: Entry) -> Recording {
        let wanted = self.kept && self.occasions.iter().any(|occasion| occasion.fits(intake, entry));
        if wanted { Recording::Due } else { Recording::Off }
    }
}

impl Occasion {
    fn fits(&self, intake: &Intake, entry: Entry) -> bool {
        let value = |name: &str| intake.variables.iter().find(|(known, _)| known == name).map(|(_, value)| value);
        self.entry.is_none_or(|wanted| wanted == entry)
            && (self.task.is_empty() || intake.task.as_deref().is_some_and(|task| any(&self.task, task)))
            && (self.dialled.is_empty() || any(&self.dialled, &intake.dialled))
            && self.variables.iter().all(|(name, patterns)| value(name).is_some_and(|value| any(patterns, value)))
    }
}

impl Facts {
    /// GenerativeAgent has answered: a recording that is due begins.
    pub(super) fn record_if_due(&mut self, actions: &mut Vec<CallAction>) {
        if self.recording == Recording::Due {
            self.recording = Recording::On;
            actions.push(CallAction::Record(true));
        }
    }

    /// A person wants it, or wants it no more.
    pub(super) fn record_as_asked(&mut self, on: bool, actions: &mut Vec<CallAction>) {
        if self.settings.recording.kept {
            self.recording = if on { Recording::On } else { Recording::Off };
            actions.push(CallAction::Record(on));
        }
    }

    /// The line that tells of it, where that is wanted.
    pub(super) fn recording_line(&self) -> Option<(String, String)> {
        let CallSettings { recording: settings, .. } = &*self.settings;
        let told = self.recording != Recording::Off && !settings.header.is_empty();
        told.then(|| (settings.header.clone(), "yes".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::settings::IntakeSettings;
    use crate::leg::Invitation;

    #[test]
    fn a_call_is_recorded_where_every_condition_of_one_occasion_is_met() {
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let invitation = Invitation {
            dialled: "7001".into(),
            headers: vec![header("X-GA-taskName", "Billing"), header("X-GA-iv-tier", "gold 2")],
            ..Invitation::default()
        };
        let intake = Intake::read(&invitation, &IntakeSettings::default(), &mut ());
        let recorded = |kept, occasions| {
            let settings = RecordingSettings { kept, occasions, header: String::new() };
            settings.of(&intake, Entry::Supervised) == Recording::Due
        };
        let patterns = |pattern: &str| vec![Pattern(pattern.to_owned())];
        let tier = |pattern| Occasion {
            variables: [("tier".to_owned(), patterns(pattern))].into(),
            dialled: patterns("70*"),
            ..Occasion::default()
        };
        assert!(recorded(true, vec![Occasion::default()]), "everybody");
        assert!(!recorded(false, vec![Occasion::default()]), "there is no place for it");
        assert!(!recorded(true, Vec::new()));
        assert!(recorded(true, vec![Occasion { task: patterns("Sales"), ..Occasion::default() }, tier("gold*")]));
        assert!(!recorded(true, vec![tier("silver*")]));
        assert!(!recorded(true, vec![Occasion { entry: Some(Entry::Redirected), ..tier("gold*") }]));
    }
}
