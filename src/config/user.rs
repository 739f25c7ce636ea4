//! `[user.NAME]`: who may call from where callers are asked who they are.

use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::{Config, words};
use crate::sip::gate;

/// Somebody who may call.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct User {
    /// The password.
    #[serde(serialize_with = "words::nothing")]
    pub password: SecretString,
    /// A file with the password instead.
    pub password_file: Option<PathBuf>,
}

impl User {
    /// As the core knows it.
    pub fn core(&self, name: &str) -> gate::User {
        gate::User { name: name.to_owned(), password: self.password.expose_secret().to_owned() }
    }
}

/// Reasons to refuse these users.
pub(super) fn problems(config: &Config, problems: &mut Vec<String>) {
    let Config { sip, user, .. } = config;
    if !sip.challenge.is_empty() && user.is_empty() {
        problems.push("sip.challenge lets nobody in: write [user.ivr] with password = \"…\"".to_owned());
    }
    if sip.realm.is_empty() || sip.realm.chars().any(char::is_control) {
        problems.push("sip.realm is no name: write \"switchback\", or what your IVR expects".to_owned());
    }
    for (name, user) in user {
        if name.chars().any(|c| !c.is_ascii_graphic() || matches!(c, ':' | '"' | '\\')) {
            problems.push(format!("user.{name}: a user's name has no blanks, quotes, backslashes and colons"));
        }
        if user.password.expose_secret().is_empty() {
            problems.push(format!("user.{name}.password is missing: write it, or password_file"));
        }
    }
}
