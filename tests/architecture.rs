//! The edges of the house, as tests. A rule names its reason; a breach names its file and line.
#![expect(clippy::unwrap_used, reason = "a test that cannot read its own source should say so")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const PURE: &[&str] = &["b2bua", "call", "leg", "sdp", "sip"];
const ADAPTERS: &[&str] = &["driver", "media", "asapp", "store", "admin", "webhooks", "demo"];
/// Every room of the house.
const ROOMS: &[&str] = &[
    "b2bua",
    "call",
    "leg",
    "sdp",
    "sip",
    "driver",
    "media",
    "asapp",
    "store",
    "admin",
    "webhooks",
    "demo",
    "app",
    "config",
    "clock",
    "telemetry",
];

/// One statement: where it is, and its text without comments, grouped imports also written out.
struct Line {
    file: String,
    number: usize,
    code: String,
}

impl Line {
    /// `src/sip/message.rs` is in `sip` and in `sip/message`.
    fn is_in(&self, place: &str) -> bool {
        let file = self.file.trim_start_matches("src/");
        file == format!("{place}.rs") || file.starts_with(&format!("{place}/"))
    }

    /// What the line names of this crate, as paths from its root.
    fn imports(&self) -> Vec<String> {
        let mut paths: Vec<String> = self.code.split("crate::").skip(1).flat_map(|rest| leaves("", rest)).collect();
        // As many `super::` as the file is deep lead to the root as well.
        let depth = self.file.trim_start_matches("src/").trim_end_matches("/mod.rs").split('/').count();
        if let Some((_, rest)) = self.code.split_once(&"super::".repeat(depth)) {
            paths.extend(leaves("", rest).into_iter().filter(|path| ROOMS.contains(&first(path))));
        }
        paths
    }
}

fn first(path: &str) -> &str {
    path.split("::").next().unwrap_or_default()
}

/// The paths at the front of `a::{b, c::D};`.
fn leaves(before: &str, text: &str) -> Vec<String> {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(text.len());
    let path = format!("{before}{}", &text[..end]);
    let Some(group) = text[end..].strip_prefix('{') else { return vec![path] };
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                let item = group[start..at].trim();
                if !item.is_empty() {
                    found.extend(leaves(&path, item));
                }
                start = at + 1;
            }
            _ => {}
        }
        if c == '}' && depth == 0 && start == at + 1 {
            break;
        }
    }
    found
}

/// Every statement below `src`, unit tests left out.
fn code() -> Vec<Line> {
    let root = root();
    let mut files = Vec::new();
    collect(&root.join("src"), &mut files);
    assert!(files.len() > 10, "src was not found");
    let name = |path: &Path| path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
    files.iter().flat_map(|path| lines(&name(path), &fs::read_to_string(path).unwrap())).collect()
}

/// Asked at run time: two checkouts may share a target folder, and each must read its own source.
fn root() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            files.push(path);
        }
    }
}

fn lines(file: &str, text: &str) -> Vec<Line> {
    // Unit tests stand last and may name anything.
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let mut lines: Vec<Line> = Vec::new();
    let mut open_import = false;
    for (at, line) in text.lines().enumerate() {
        let code = line.split_once("// ").map_or(line, |(code, _)| code).trim();
        if code.is_empty() || code.starts_with("//") {
            continue;
        }
        match lines.last_mut() {
            Some(import) if open_import => import.code.push_str(code),
            _ => lines.push(Line { file: file.to_owned(), number: at + 1, code: code.to_owned() }),
        }
        if let Some(Line { code, .. }) = lines.last_mut()
            && let Some(import) =
                code.split_once("use ").filter(|(before, _)| before.is_empty() || before.starts_with("pub"))
        {
            open_import = !code.ends_with(';');
            if !open_import && code.contains('{') {
                let written_out = leaves("", import.1).join("; use ");
                code.push_str(&format!(" use {written_out};"));
            }
        }
    }
    lines
}

/// Fails with every line that breaks the rule.
fn forbid(rule: &str, reason: &str, breaks: impl Fn(&Line) -> bool) {
    let breaches: Vec<String> = code()
        .iter()
        .filter(|line| breaks(line))
        .map(|line| format!("  {}:{}: {}", line.file, line.number, line.code))
        .collect();
    assert!(breaches.is_empty(), "{rule}\n  because {reason}\n{}", breaches.join("\n"));
}

/// Whether `word` stands in the code as a whole word or path.
fn names(code: &str, word: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        !before.is_some_and(is_name) && !after.is_some_and(is_name)
    })
}

/// Whether the code uses a third-party crate: `rsip::` at the start of a path, or `use rsip`.
fn uses_crate(code: &str, name: &str) -> bool {
    names(code, name)
        && code.match_indices(name).any(|(at, _)| {
            let (before, after) = (code[..at].trim_end(), &code[at + name.len()..]);
            let is_root = !before.ends_with("::") || before.ends_with(" ::");
            is_root && (after.starts_with("::") || before.ends_with("use") && after.starts_with([';', ' ']))
        })
}

#[test]
fn pure_folders_touch_nothing_of_the_world() {
    let crates = ["tokio", "reqwest", "axum", "rustix", "socket2", "config", "secrecy", "jiff"];
    let words = [
        "async fn",
        "async move",
        "await",
        "UdpSocket",
        "TcpStream",
        "TcpListener",
        "std::thread",
        // Sharing what never changes (`Arc`) is no lock and no channel.
        "Mutex",
        "RwLock",
        "Condvar",
        "std::sync::atomic",
        "std::sync::mpsc",
        "OnceLock",
        "LazyLock",
        "std::fs",
        "std::env",
        "std::process",
        "Instant::now",
        "SystemTime",
        "rand::rng",
        "rand::random",
        "from_os_rng",
        "OsRng",
        "SysRng",
        "ThreadRng",
    ];
    forbid(
        "a pure folder names no clock, socket, thread, lock, entropy, configuration or adapter",
        "the core is tested on virtual time, and a call is replayed from its inputs",
        |line| {
            PURE.iter().any(|folder| line.is_in(folder))
                && (words.iter().any(|word| names(&line.code, word))
                    || crates.iter().any(|name| uses_crate(&line.code, name))
                    || line.imports().iter().any(|path| ROOMS.contains(&first(path)) && !PURE.contains(&first(path))))
        },
    );
}

#[test]
fn pure_folders_look_downwards() {
    let below: [(&str, &[&str]); 5] = [
        ("b2bua", &["b2bua", "call", "leg", "sdp", "sip"]),
        ("call", &["call", "leg"]),
        ("leg", &["leg", "sdp", "sip"]),
        ("sdp", &["sdp"]),
        ("sip", &["sip"]),
    ];
    forbid(
        "imports go b2bua -> call -> leg -> sdp, sip; sip and sdp do not know each other",
        "a call decides, a leg owes, a transaction repeats: each can be read without the ones above it",
        |line| {
            below.iter().any(|(folder, allowed)| {
                line.is_in(folder) && line.imports().iter().any(|path| !allowed.contains(&first(path)))
            })
        },
    );
}

#[test]
fn the_call_knows_of_the_leg_its_vocabulary() {
    let commands_and_events = ["LegRole", "LegCommand", "LegEvent"];
    let their_fields =
        ["Cause", "Info", "Invitation", "LostCause", "MediaCounters", "Redirect", "Referral", "Side", "Transfer"];
    let vocabulary = [&commands_and_events[..], &their_fields[..]].concat();
    forbid(
        "call uses from leg only LegRole, LegCommand, LegEvent and the types of their fields",
        "the call knows the product and no SIP",
        |line| {
            line.is_in("call")
                && line.imports().iter().any(|path| {
                    let mut parts = path.split("::");
                    parts.next() == Some("leg") && parts.next().is_none_or(|word| !vocabulary.contains(&word))
                })
        },
    );
}

#[test]
fn the_router_does_not_look_into_a_calls_state() {
    forbid(
        "b2bua does not name CallState",
        "whoever sees where a call stands begins to decide, and a router that decides grows without end",
        |line| line.is_in("b2bua") && line.code.contains("CallState"),
    );
}

#[test]
fn adapters_know_the_boundary_and_not_each_other() {
    let plain = [
        "b2bua::io",
        "b2bua::settings",
        "b2bua::counters",
        "call::asapp",
        "call::record",
        "call::settings",
        "call::verdict",
        "call::CallRef",
        "call::ConversationId",
        "call::TransferId",
        "leg::LegRole",
        "leg::MediaCounters",
        "leg::Mos",
        "leg::Quality",
        "clock",
    ];
    forbid(
        "an adapter imports no other adapter, and of the core b2bua::{io, settings, counters} and plain types of call and leg",
        "what the core asks of them is declared in b2bua/io.rs; app.rs alone knows them all",
        |line| {
            let Some(own) = ADAPTERS.iter().find(|adapter| line.is_in(adapter)) else { return false };
            line.imports().iter().any(|path| {
                let is_plain = plain.iter().any(|plain| path == plain || path.starts_with(&format!("{plain}::")));
                // The driver is the loop around the core itself.
                let is_core = *own == "driver" && first(path) == "b2bua";
                first(path) != *own && !is_plain && !is_core
            })
        },
    );
}

#[test]
fn one_crate_has_one_door() {
    let doors: [(&str, &[&str]); 22] = [
        ("rsip", &["sip/message", "demo"]),
        ("rtp_rs", &["media", "demo"]),
        ("rtcp_types", &["media/report"]),
        ("reqwest", &["asapp", "webhooks", "demo"]),
        ("rustls", &["asapp", "webhooks", "demo", "app", "driver/tls"]),
        ("tokio_rustls", &["driver/tls"]),
        ("webpki", &["driver/tls"]),
        ("config", &["config"]),
        ("secrecy", &["config", "asapp", "admin", "webhooks", "demo", "app"]),
        ("base64", &["sdp/crypto"]),
        ("webrtc_srtp", &["media/srtp"]),
        ("webrtc_rtp", &["media/srtp"]),
        ("sdp_types", &["sdp", "demo"]),
        ("redb", &["store/conversations"]),
        ("axum", &["admin", "demo"]),
        ("prometheus_client", &["admin"]),
        ("clap", &["main", "mock", "load"]),
        ("anyhow", &["main", "mock", "load", "app", "stage", "demo"]),
        ("rustix", &["driver", "media"]),
        ("socket2", &["driver", "media"]),
        ("hound", &["demo", "media"]),
        ("pcap_file", &["demo", "media"]),
    ];
    for (name, places) in doors {
        forbid(
            &format!("the crate {name} is used only in {}", places.join(", ")),
            "a crate behind one door can be replaced, and its bugs have one address",
            |line| uses_crate(&line.code, name) && !places.iter().any(|place| line.is_in(place)),
        );
    }
}

#[test]
fn one_file_reads_the_clocks() {
    forbid("only clock.rs calls Instant::now and SystemTime::now", "time is an argument", |line| {
        !line.is_in("clock") && (names(&line.code, "Instant::now") || names(&line.code, "SystemTime::now"))
    });
}

#[test]
fn dependencies_are_free_and_come_from_the_registry() {
    let accepted: BTreeSet<&str> = [
        "MIT",
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "ISC",
        "Zlib",
        "Unicode-3.0",
        "Unicode-DFS-2016",
        "CC0-1.0",
        "BSL-1.0",
        "Unlicense",
    ]
    .into();
    // Named exceptions: read by a person, once.
    let clarified = [
        ("rsip", "MIT: the field is empty, the file LICENSE holds the text"),
        ("rsip-derives", "MIT: the field is empty, the file LICENSE holds the text"),
        ("webpki-root-certs", "CDLA-Permissive-2.0: a list of certificates, data and no code"),
    ];
    let mut sources = BTreeSet::new();
    for package in packages() {
        let name = package["name"].as_str().unwrap();
        let Some(source) = package["source"].as_str() else {
            assert_eq!(name, "switchback", "{name} is not from the registry: a path cannot be audited by its version");
            continue;
        };
        assert!(source.starts_with("registry+"), "{name}: only a registry's versions last, not {source}");
        sources.insert(source.to_owned());
        if clarified.iter().any(|(clarified, _)| *clarified == name) {
            continue;
        }
        let licence = package["license"].as_str().unwrap_or_default();
        assert!(permits(licence, &accepted), "{name} is licensed as `{licence}`: the binary may be shipped by anyone");
    }
    assert_eq!(sources.len(), 1, "every dependency comes from the same registry");
}

/// Whether an SPDX expression can be met with the accepted licences: every AND part by one of its OR parts.
fn permits(expression: &str, accepted: &BTreeSet<&str>) -> bool {
    let part = |part: &str| {
        let any = part.replace('/', " OR ");
        any.split(" OR ").any(|licence| {
            let bare = licence.trim().trim_matches(['(', ')']).trim();
            accepted.contains(bare.split(" WITH ").next().unwrap_or_default())
        })
    };
    !expression.is_empty() && expression.split(" AND ").all(part)
}

fn packages() -> Vec<serde_json::Value> {
    // What is built here is what there is to look at; nothing else has been fetched.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", &platform])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap().clone();
    assert!(packages.len() > 50, "cargo metadata shows {} packages", packages.len());
    packages
}

#[test]
fn the_rules_can_be_broken() {
    let line = |file: &str, code: &str| Line { file: file.to_owned(), number: 1, code: code.to_owned() };
    let grouped = line("src/call/mod.rs", "use crate::{leg::{LegRole, uas::{self, Server}}, sip};");
    assert_eq!(grouped.imports(), ["leg::LegRole", "leg::uas::self", "leg::uas::Server", "sip"]);
    assert_eq!(line("src/a.rs", "let x = crate::call::CallRef(1);").imports(), ["call::CallRef"]);
    assert_eq!(line("src/call/step.rs", "use super::super::sip::Uri;").imports(), ["sip::Uri"]);
    assert_eq!(line("src/call/step.rs", "use super::state::State;").imports(), Vec::<String>::new());
    let read = lines(
        "src/a.rs",
        "//! rsip\nuse std::{\n    // why\n    sync::Arc,\n};\nf(); // rsip\n#[cfg(test)]\nmod tests {\nrsip::x();",
    );
    assert_eq!((read.len(), read[0].number, read[1].code.as_str()), (2, 2, "f();"));
    assert!(names(&read[0].code, "std::sync"), "{}", read[0].code);
    assert!(line("src/sip/message.rs", "").is_in("sip") && line("src/sip/message.rs", "").is_in("sip/message"));
    assert!(!line("src/sipp.rs", "").is_in("sip") && line("src/config.rs", "").is_in("config"));
    assert!(uses_crate("use rsip::message::Message;", "rsip") && uses_crate("let m = rsip::Uri::default();", "rsip"));
    assert!(!uses_crate("use crate::config::Config;", "config") && !uses_crate("let config = 1;", "config"));
    assert!(names("std::thread::spawn", "std::thread") && !names("brand", "rand"));
    let accepted = BTreeSet::from(["MIT", "ISC"]);
    assert!(permits("(MIT OR GPL-3.0) AND ISC", &accepted) && permits("GPL-3.0/MIT", &accepted));
    assert!(!permits("MIT AND GPL-3.0", &accepted) && !permits("", &accepted));
}
