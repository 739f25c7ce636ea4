//! `[webhook.NAME]`: a service that says where customers go.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::words::{self, span};
use super::{Config, routes};
use crate::call::webhook;

/// Whom the rung `webhook:NAME` asks.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Webhook {
    /// Where it is.
    pub url: String,
    /// Whether `url` may be plain `http://`.
    pub allow_http: bool,
    /// Sent as a bearer token; empty: none.
    #[serde(serialize_with = "words::nothing")]
    pub secret: SecretString,
    /// A file with the secret instead.
    pub secret_file: Option<PathBuf>,
    /// How long it may take to answer.
    #[serde(with = "words::span")]
    pub timeout: Duration,
    /// Whether it may hang up on a redirected customer, behind whom nobody waits.
    pub allow_drop: bool,
}

impl Default for Webhook {
    fn default() -> Self {
        Self {
            url: String::new(),
            allow_http: false,
            secret: SecretString::default(),
            secret_file: None,
            timeout: Duration::from_secs(2),
            allow_drop: false,
        }
    }
}

impl Webhook {
    /// As the core knows it.
    pub(super) fn core(&self) -> webhook::Webhook {
        webhook::Webhook { limit: self.timeout, allow_drop: self.allow_drop }
    }
}

/// Reasons to refuse the webhooks.
pub(super) fn problems(config: &Config, problems: &mut Vec<String>) {
    for (name, row) in &config.webhook {
        let url = &row.url;
        let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
        if host.is_none_or(|host| host.is_empty() || host.contains('@') || host.contains(char::is_whitespace)) {
            problems
                .push(format!("webhook.{name}.url = \"{url}\" is no URL: write \"https://router.example.com/next\""));
        } else if url.starts_with("http://") && !row.allow_http {
            problems.push(format!(
                "webhook.{name}.url = \"{url}\" is not encrypted: write https://, or allow_http = true for one on this \
                 machine"
            ));
        }
        if row.secret.expose_secret().chars().any(|c| !c.is_ascii_graphic()) {
            problems
                .push(format!("webhook.{name}.secret holds a character that no HTTP header may carry: copy it again"));
        }
        let (least, most) = (Duration::from_millis(100), config.call.ladder_limit);
        if !(least..=most).contains(&row.timeout) {
            let [is, least, most] = [row.timeout, least, most].map(span::format);
            problems.push(format!(
                "webhook.{name}.timeout = \"{is}\" is out of range: write \"{least}\" to call.ladder_limit = \"{most}\""
            ));
        }
    }
    for (number, webhook) in routes::webhooks(config) {
        if !config.webhook.contains_key(webhook) {
            problems.push(format!(
                "rule {number} names the webhook `{webhook}`, which is not there: write [webhook.{webhook}] with its url"
            ));
        }
    }
}
