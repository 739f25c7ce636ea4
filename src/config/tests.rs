use std::collections::BTreeMap;

use ::config::{File, FileFormat, Source as _};
use secrecy::ExposeSecret;

use super::words::span;
use super::*;
use crate::call::settings::{Return, Uui, UuiForm};
use crate::call::verdict::Outcome;

const EXAMPLE: &str = include_str!("../../deploy/switchback.toml");
const LEAST: &str =
    "[trunk.main]\naddress = '192.0.2.10:5060'\n[asapp]\napi_id = 'your-api-id'\napi_secret = 'your-api-secret'\n";

/// The smallest configuration with more lines on top.
fn with(more: &str) -> Result<Config, ConfigError> {
    // Dotted keys, so that a section may be opened twice.
    let least = "trunk.main.address = '192.0.2.10:5060'\nasapp.api_id = 'id'\nasapp.api_secret = 'secret'\n";
    Config::parse(&format!("{least}{more}"))
}

fn refusal(more: &str) -> String {
    with(more).expect_err("must be refused").to_string()
}

fn from_environment(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let variables = variables.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    gather::read(Some(gather::Toml::Text(LEAST)), Some(variables))?.finished()
}

/// The example's `#key = value` lines by section: (key, line, whether it is only an example).
fn commented(example: &str) -> Vec<(String, String, bool)> {
    let mut section = String::new();
    let mut found = Vec::new();
    for line in example.lines() {
        let bare = line.strip_prefix('#').unwrap_or(line);
        if let Some(name) = bare.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name.to_owned();
        }
        if let Some((key, _)) = bare.split_once(" = ")
            && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && !section.contains('[')
            && !section.starts_with("target.")
        {
            found.push((format!("{section}.{key}"), bare.to_owned(), line.ends_with("# example")));
        }
    }
    found
}

#[test]
fn the_example_loads_and_shows_every_key() {
    Config::parse(EXAMPLE).unwrap();
    // A profile has the keys of [context], which are shown there.
    let own = |key: &String| key.strip_prefix("profile.*.").is_none_or(|key| key == "peers");
    let shown = commented(EXAMPLE).into_iter().map(|(key, _, _)| gather::general(&key));
    let shown: Vec<String> = shown.filter(own).collect();
    let known: Vec<String> = gather::known_keys().into_keys().filter(own).collect();
    assert_eq!(shown.len(), known.len(), "a key is shown twice");
    for key in known {
        assert!(shown.contains(&key), "deploy/switchback.toml does not show {key}");
    }
}

#[test]
fn the_defaults_in_the_example_are_the_real_ones() {
    let mut sections: BTreeMap<String, String> = BTreeMap::new();
    for (key, line, example) in commented(EXAMPLE) {
        if !example {
            let (section, _) = key.rsplit_once('.').unwrap();
            sections.entry(section.to_owned()).or_default().push_str(&format!("{line}\n"));
        }
    }
    let toml: String = sections.iter().map(|(section, lines)| format!("[{section}]\n{lines}")).collect();
    let (shown, real) = (Config::parse(&toml).unwrap(), Config::parse(LEAST).unwrap());
    assert_eq!(format!("{shown:#?}"), format!("{real:#?}"));
}

#[test]
fn values_marked_as_examples_can_be_used() {
    for (key, line, example) in commented(EXAMPLE) {
        if !example || key.ends_with("_file") {
            continue;
        }
        let companion = match key.as_str() {
            "sip.tls_listen" => "sip.tls_certificate = 'c.pem'\nsip.tls_key = 'k.pem'\n",
            "sip.tls_certificate" => "sip.tls_key = 'k.pem'\n",
            "sip.tls_key" => "sip.tls_certificate = 'c.pem'\n",
            "trunk.main.profile" => "profile.pbx.preset = 'generic'\n",
            key if key.starts_with("webhook.router.") && key != "webhook.router.url" => {
                "webhook.router.url = 'https://r'\n"
            }
            "recording.when" => "recording.path = '/var/lib/switchback'\n",
            "profile.pbx.peers" => "sip.access = ['10.0.0.0/8']\n",
            _ => "",
        };
        let whole =
            [("from", "['192.0.2.10']"), ("refer_hosts", "['pbx']"), ("username", "'us'"), ("password", "'word'")];
        let others = whole.iter().filter(|(other, _)| key != format!("peer.pbx.{other}"));
        let peer: String = others.map(|(other, value)| format!("peer.pbx.{other} = {value}\n")).collect();
        let peer = format!("sip.access = ['192.0.2.10']\n{peer}");
        let companion = if key.starts_with("peer.") { &peer } else { companion };
        with(&format!("{}{companion}", key_line(&key, &line))).unwrap_or_else(|error| panic!("{key}: {error}"));
    }
}

/// The example's targets and rules, its comments undone.
#[test]
fn the_rows_in_the_example_can_be_used_and_show_every_key() {
    let rows = EXAMPLE.split_once("\n#[target.queue]\n").unwrap().1;
    let is_toml =
        |line: &&str| line.starts_with("#[") || line.split_once(" = ").is_some_and(|(key, _)| !key.contains("# "));
    let lines: Vec<&str> = rows.lines().filter(is_toml).map(|line| line.trim_start_matches('#')).collect();
    let toml = format!("profile.pbx.preset = 'generic'\n[target.queue]\n{}", lines.join("\n"));
    let config = with(&toml).unwrap_or_else(|error| panic!("{error}\n{toml}"));
    assert_eq!((config.target["queue"].uri.len(), config.rule.len()), (2, 2));
    let keys = |value: serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let (target, rule) =
        (serde_json::to_value(Target::default()).unwrap(), serde_json::to_value(Rule::default()).unwrap());
    let conditions = keys(rule["when"].clone()).into_iter().map(|key| format!("when.{key}"));
    for key in
        keys(target).into_iter().chain(keys(rule.clone()).into_iter().filter(|key| key != "when")).chain(conditions)
    {
        assert!(lines.iter().any(|line| line.starts_with(&format!("{key} = "))), "{key} is not shown");
    }
}

#[test]
fn the_rules_in_the_readme_can_be_used() {
    let readme = include_str!("../../README.md");
    let block =
        readme.split_once("\n    [target.queue]\n").unwrap().1.lines().take_while(|line| !line.starts_with('`'));
    let config = with(&format!("[target.queue]\n{}", block.collect::<Vec<_>>().join("\n"))).unwrap();
    assert_eq!(config.rule.len(), 2);
}

const QUEUE: &str = "[target.queue]\nuri = 'sip:q@pbx'\n";

#[test]
fn rules_that_would_lose_a_customer_are_refused_with_their_fix() {
    for (rule, hint) in [
        ("ladder = ['bye', 'refuse:480']", "when.entry = \"supervised\""),
        ("when.entry = 'redirected'\nwhen.answered = true\nladder = ['dial:queue', 'bye']", "allow_drop = true"),
        ("when.outcome = 'agent'\nladder = ['dial:nowhere']", "write [target.nowhere]"),
        ("when.outcome = 'not_connected'\nladder = ['dial:queue']", "end it with \"refuse:480\""),
        ("when.outcome = 'not_connected'\nwhen.entry = 'supervised'\nladder = 'bye'", "end it with \"refuse:480\""),
        ("when.outcome = 'agent'\nladder = 'refuse:480'", "no rung for agent of an answered call"),
        (
            "when.outcome = 'system'\nwhen.entry = 'supervised'\nladder = ['bye', 'dial:queue']",
            "never reached behind `bye`",
        ),
        (
            "when.outcome = 'not_connected'\nladder = ['redirect:queue', 'refuse:480']",
            "never reached behind `redirect:queue`",
        ),
        ("when.outcome = 'customer_hung_up'\nladder = 'dial:queue'", "nobody is handed back after customer_hung_up"),
        ("when.outcome = 'agent'\nwhen.answered = false\nladder = 'refuse:480'", "can never fit"),
        ("when.outcome = 'agent'\nladder = []", "has no ladder"),
        ("when.outcome = 'agnt'\nladder = 'bye'", "unknown variant `agnt`"),
        ("when.outcom = 'agent'\nladder = 'bye'", "unknown field `outcom`"),
        ("when.outcome = 'agent'\nladder = 'transfer:queue'", "is not a rung"),
        ("when.outcome = 'not_connected'\nladder = 'refer_replaces:queue'", "end it with \"refuse:480\""),
        ("when.outcome = 'not_connected'\nladder = 'refer:queue'", "end it with \"refuse:480\""),
    ] {
        let error = refusal(&format!("{QUEUE}[[rule]]\n{rule}\n"));
        assert!(error.contains(hint), "{rule}: {error}");
    }
    for (lines, hint) in [
        ("[target.q]\naddress = '192.0.2.1:5060'", "write uri"),
        ("[target.q]\nuri = 'mailto:queue@pbx.example.com'", "no SIP URI"),
        ("[target.q]\nuri = 'tel:someone'", "no SIP URI"),
        ("[target.q]\nuri = 'sip:q@pbx;method=BYE'", "no SIP URI"),
        (
            "[target.q]\nuri = ['sip:q@pbx', 'tel:+15550100']\n[[rule]]\nladder = ['refer:q', 'dial:q', 'refuse:480']",
            "only \"refer:q\" can do with it",
        ),
        ("[target.q]\nuri = 'sip:q@pbx'\naccept_limit = '0s'", "target.q.accept_limit = \"0s\" is out of range"),
        ("[target.q]\nuri = 'sip:q@pbx'\nsilence = '10ms'", "target.q.silence = \"10ms\" is out of range"),
        ("[target.q]\nuri = 'sip:a@b?Subject=x'", "no SIP URI"),
        ("[target.q]\nuri = 'sip:a@b'\naddress = 'b:0'", "not a host"),
        ("[target.q]\nuri = 'sip:a@b'\nring_limit = '5m'", "call.ladder_limit"),
        ("[target.q]\nuri = 'sip:a@b'\ntransport = 'tls'", "sip.tls_listen"),
        ("[target.q]\nuri = 'sip:a@b'\nurl = 'x'", "unknown field `url`"),
        ("call.entry = 'redirected'", "end with a [[rule]] without `when`"),
        ("call.entry = 'redirected'", "write [target.default]"),
        ("[target.default]\nuri = 'tel:+15550100'", "is not for dial:default"),
    ] {
        let error = refusal(lines);
        assert!(error.contains(hint), "{lines}: {error}");
    }
    let good = "[[rule]]\nwhen.outcome = 'agent'\nwhen.entry = 'redirected'\nladder = ['dial:queue', 'bye']\nallow_drop = true\n\
                [[rule]]\nwhen.outcome = 'not_connected'\nladder = ['dial:queue', 'refuse:503']\n";
    with(&format!("{QUEUE}{good}")).unwrap();
    let answered_first = with(&format!("call.answer = 'first'\n{QUEUE}[[rule]]\nladder = 'dial:queue'\n")).unwrap();
    assert_eq!(answered_first.warnings().iter().filter(|line| line.contains("redirected")).count(), 0);
}

#[test]
fn the_rule_that_the_warning_advises_is_taken_and_ends_the_warning() {
    let hangs_up = |warning: &&String| warning.contains("hangs up on its customer");
    let warned = Config::parse(LEAST).unwrap().warnings();
    let advice = warned.iter().find(hangs_up).unwrap().split_once("with ").unwrap().1;
    let rule = advice.replace(" and ", "\n").replace(", when", "\nwhen").replace("TARGET", "queue");
    let config = with(&format!("{QUEUE}[[rule]]\n{rule}\n")).unwrap();
    assert_eq!(config.warnings().iter().find(hangs_up), None);
}

#[test]
fn a_default_target_takes_redirected_customers_that_no_rule_is_for() {
    for entry in ["detect", "redirected"] {
        let config = with(&format!(
            "call.entry = '{entry}'\n[target.default]\nuri = 'sip:q@pbx'\n\
             [[rule]]\nwhen.outcome = 'agent'\nladder = 'dial:default'\n"
        ))
        .unwrap();
        assert!(config.warnings().iter().all(|warning| !warning.contains("hangs up")), "{:?}", config.warnings());
        let text = config.explain();
        for line in [
            "agent             redirected    dial:default, then BYE with the cause",
            "system            redirected    refer:default, then dial:default, then BYE with the cause",
            "not_connected     redirected    refuse:480",
        ] {
            assert!(text.contains(line), "{line}:\n{text}");
        }
        assert!(entry == "redirected" || text.contains("system            supervised    bye\n"), "{text}");
    }
}

fn key_line(key: &str, line: &str) -> String {
    let (section, _) = key.rsplit_once('.').unwrap();
    format!("{section}.{line}\n")
}

#[test]
fn the_defaults_are_those_of_the_core() {
    let settings = Config::parse(LEAST).unwrap().core_settings();
    let core = Settings::default();
    assert_eq!(format!("{:?}", settings.call), format!("{:?}", core.call));
    assert_eq!(settings.sip_address, core.sip_address);
    let [trunk] = settings.trunks.as_slice() else { panic!("one trunk") };
    assert_eq!((trunk.name.as_str(), trunk.domain.as_str()), ("main", "192.0.2.10"));
    assert_eq!((trunk.place.host.as_str(), trunk.place.port), ("192.0.2.10", Some(5060)));
    assert_eq!(settings.retry_after, core.retry_after);
    assert_eq!(settings.max_calls, 1666);
}

#[test]
fn an_unknown_key_is_told_its_nearest_neighbour_and_its_origin() {
    assert_eq!(
        refusal("sip.listn = '127.0.0.1:5060'"),
        "`sip.listn` in the text is not known; did you mean `sip.listen`?"
    );
    assert_eq!(refusal("call.timeout = '4s'").split_once("did you mean").unwrap().1.matches("timeout").count(), 1);
    assert!(refusal("zebra = 1").contains("deploy/switchback.toml lists every key"));
    let error = from_environment(&[("SWITCHBACK__SIP__ACESS", "10.0.0.0/8")]).unwrap_err().to_string();
    assert_eq!(error, "the environment variable SWITCHBACK__SIP__ACESS is not known; did you mean `sip.access`?");
    assert!(from_environment(&[("SWITCHBACK__SIP", "x")]).is_err());
    assert!(with("sip = 3").is_err());
}

#[test]
fn the_environment_wins_and_keeps_plus_signs() {
    let config = from_environment(&[
        ("SWITCHBACK__SIP__ACCESS", "10.0.0.0/8, 192.0.2.1"),
        ("SWITCHBACK__TRUNK__MAIN__CALLER_ID", "+15550100"),
        ("SWITCHBACK__TRUNK__MAIN__PLUS", "false"),
        ("SWITCHBACK__SIP__MAX_CALLS", "7"),
        ("SWITCHBACK__CALL__RING_LIMIT", "20"),
        ("SWITCHBACK__ASAPP__API_SECRET", "other"),
        ("UNRELATED", "1"),
    ])
    .unwrap();
    assert_eq!(config.sip.access.len(), 2);
    assert_eq!(config.sip.access[1].prefix, 32);
    assert_eq!(config.trunk["main"].caller_id, "+15550100");
    assert!(!config.trunk["main"].plus);
    assert_eq!(config.sip.max_calls, 7);
    assert_eq!(config.call.ring_limit, Duration::from_secs(20));
    assert_eq!(config.asapp.api_secret.expose_secret(), "other");
}

#[test]
fn a_wrong_type_names_its_key() {
    for (line, key, hint) in [
        ("sip.max_calls = 'many'", "sip.max_calls", "integer"),
        ("sip.t1 = 'soon'", "sip.t1", "150ms"),
        ("sip.t1 = true", "sip.t1", "duration"),
        ("sip.access = ['10.0.0.0/99']", "sip.access", "10.0.0.0/8"),
        ("sip.unlisted = 'shout'", "sip.unlisted", "forbid"),
        ("media.ports = '20000'", "media.ports", "20000-29999"),
        ("sip.listen = 'here'", "sip.listen", "write \"192.0.2.1:5060\""),
        ("sip.advertise = 'sbc.example.com'", "sip.advertise", "203.0.113.7"),
        ("context.transfer_variables = 'x'", "context.transfer_variables", "sequence"),
    ] {
        let error = refusal(line);
        assert!(error.contains(key) && error.contains(hint), "{line}: {error}");
    }
}

#[test]
fn what_cannot_work_is_refused_with_its_fix() {
    for (lines, hint) in [
        ("call.expiry_margin = '60s'", "write a smaller margin"),
        ("call.ring_limit = 0", "\"1s\" to \"10m\""),
        ("media.ports = '20001-29999'", "write \"20002-29999\""),
        ("media.ports = '20000-20001'", "six ports"),
        ("media.ports = '5000-5999'", "contains the SIP port"),
        ("media.address = '0.0.0.0'", "write media.advertise"),
        ("sip.listen = '0.0.0.0:5060'", "write sip.advertise"),
        ("sip.listen = []", "sip.listen is empty"),
        ("media.address = []", "media.address is empty"),
        ("sip.listen = ['127.0.0.1:5060', '[::]:5060']\nsip.advertise = '203.0.113.7'", "write sip.advertise"),
        ("sip.tcp_listen = ['127.0.0.1:5060', '127.0.0.2:5060']", "more than one IPv4 address"),
        (
            "media.address = ['127.0.0.1', '::1']\nmedia.advertise = ['2001:db8::1', '2001:db8::2']",
            "more than one IPv6",
        ),
        ("sip.advertise = '2001:db8::1'", "sip.listen no IPv6 address"),
        ("media.advertise = '2001:db8::1'", "media.address no IPv6 address"),
        ("sip.listen = '127.0.0.1:0'", "write a port"),
        ("intake.task_header = 'X Task'", "not a header name"),
        ("intake.task_header = 'Call-ID'", "belongs to SIP"),
        ("context.transfer_header = 'f'", "belongs to SIP"),
        ("context.transfer_prefix = 'Con'", "a longer one"),
        ("context.outcome_header = 'x-ga-transfer'", "a name of its own"),
        ("context.transfer_prefix = 'x-ga-t'", "lets a variable pass for context.transfer_header"),
        ("headers.to_genagent = ['X Site']", "not a header name"),
        ("headers.bye_to_customer = ['Session-ID', 'record-route']", "belongs to SIP itself"),
        ("headers.info_to_genagent = ['v']", "belongs to SIP itself"),
        ("sip.max_transactions = 1", "write 100 to"),
        ("sip.product = \"a\\r\\nb\"", "plain letters"),
        ("asapp.base_url = 'http://127.0.0.1:9'", "allow_http"),
        ("asapp.base_url = 'ftp://x'", "https://api.asapp.com"),
        ("asapp.number_prefixes = ['1']", "plus sign"),
        ("peer.pbx.accept_refer = true\npeer.pbx.refer_hosts = ['h']", "peer.pbx is nobody"),
        ("peer.pbx.from = ['192.0.2.10']", "not in sip.access"),
        ("sip.access = ['192.0.2.10']\npeer.pbx.from = ['192.0.2.10']\npeer.pbx.refer_hosts = ['a b']", "is no host"),
        ("asapp.barred_prefixes = ['900']", "plus sign"),
        ("asapp.sip_uri = 'genagent@x'", "no SIP URI"),
        ("asapp.way = 'headers'", "write asapp.sip_uri"),
        ("asapp.way = 'header'", "expected `api` or `headers`"),
        ("asapp.country = 'usa'", "two capital letters"),
        ("asapp.api_secret_file = 'x'", "both given"),
        ("admin.listen = '0.0.0.0:8080'", "token_file"),
        ("trunk.main.caller_id = 'a b'", "+15550100"),
        ("media.dscp = 64", "0 to 63"),
    ] {
        let error = refusal(lines);
        assert!(error.contains(hint), "{lines}: {error}");
        assert_eq!(error.lines().count(), 1, "{lines}: {error}");
    }
    assert_eq!(Config::parse("").unwrap_err().to_string().lines().count(), 3, "trunk, id and secret, all at once");
    for address in ["host:0", "a b:5060", ":5060", "host:sip"] {
        let error = Config::parse(&LEAST.replace("192.0.2.10:5060", address)).unwrap_err().to_string();
        assert!(error.contains("sbc.example.com:5060"), "{address}: {error}");
    }
}

#[test]
fn m5_the_escape_is_explained_and_checked() {
    let explained = with("call.escape = '*0'\ncall.escape_pause = '2s'").unwrap().explain();
    let told =
        "A customer who presses *0, a key at most 2s after the other, leaves GenerativeAgent (outcome operator below).";
    assert!(explained.contains(told), "{explained}");
    assert!(!with("").unwrap().explain().contains("presses"));
    let refused = with("call.escape = 'star'").unwrap_err().to_string();
    assert!(refused.contains("`star` is not up to 16 keys of 0-9, *, #, A-D: write \"*0\""), "{refused}");
    let hasty = with("call.escape = '0'").unwrap().warnings();
    assert!(hasty.iter().any(|warning| warning.contains("call.escape is a single key")), "{hasty:?}");
}

#[test]
fn h14_by_headers_no_api_is_needed_and_none_is_told_of() {
    let least = "trunk.main.address = '192.0.2.10:5060'\nasapp.way = 'headers'\nasapp.sip_uri = 'sip:genagent@x'\n";
    let config = Config::parse(least).unwrap();
    assert_eq!(config.core_settings().call.way_in, WayIn::Headers { uri: "sip:genagent@x".to_owned() });
    let explained = config.explain();
    assert!(explained.contains("while we call sip:genagent@x. No API is asked"), "{explained}");
    assert!(!explained.contains("api.asapp.com") && !explained.contains("Asking may take"), "{explained}");
    let contextless =
        |config: &Config| config.warnings().iter().any(|it| it.contains("no trunk has return = \"refer\""));
    assert!(contextless(&config));
    assert!(!contextless(&Config::parse(&format!("{least}trunk.main.return = 'refer'\n")).unwrap()));
    assert!(!contextless(&with("").unwrap()));
    let variables = [("SWITCHBACK__ASAPP__WAY", "headers"), ("SWITCHBACK__ASAPP__SIP_URI", "sip:a@b")];
    assert_eq!(from_environment(&variables).unwrap().asapp.way, WayWord::Headers);
}

const SIP: &str = "asapp.sip_uri = 'sip:genagent@x'\n";

#[test]
fn h14_the_way_back_is_checked_and_explained() {
    let uri = "asapp.return_uri = 'sip:back@sbc.example.com'\n";
    let invite = format!("{SIP}{uri}asapp.return = 'invite'\n");
    for (lines, hint) in [
        (format!("{uri}asapp.return = 'invite'"), "write asapp.sip_uri and way"),
        (format!("{SIP}asapp.return = 'invite'"), "write asapp.return_uri"),
        (format!("{SIP}{uri}"), "leave it out"),
        (format!("{SIP}asapp.return = 'fax'"), "expected one of"),
        (format!("{SIP}asapp.return = 'invite'\nasapp.return_uri = 'sip:a@b?X=y'"), "is no SIP URI"),
        (format!("{SIP}asapp.return = 'invite'\nasapp.return_uri = 'sip:sbc.example.com'"), "no plain user"),
        (format!("{SIP}asapp.return = 'invite'\nasapp.return_uri = 'sip:a@{}'", "b".repeat(990)), "too long"),
        (format!("{SIP}{uri}asapp.return = 'refer'"), "write return = \"refer\" below the trunk"),
        (format!("{invite}asapp.return_user = 'ga'"), "write [user.ga]"),
        (format!("{invite}asapp.return_user = 'ga'\nuser.ga.password = 'x'"), "sip.challenge"),
        (
            format!("{SIP}{uri}asapp.return = 'refer'\ntrunk.main.return = 'refer'\nasapp.return_user = 'ga'"),
            "write return = \"invite\"",
        ),
    ] {
        let error = refusal(&lines);
        assert!(error.contains(hint), "{lines}: {error}");
        assert_eq!(error.lines().count(), 1, "{lines}: {error}");
    }
    let told = with(&invite).unwrap().explain();
    assert!(told.contains("by INVITE to sip:back-ID@sbc.example.com"), "{told}");
    let refer = with(&format!("{SIP}{uri}asapp.return = 'refer'\ntrunk.main.return = 'refer'")).unwrap();
    let returns = Return::Refer("sip:back@sbc.example.com".to_owned());
    assert_eq!(refer.core_settings().call.way_in, WayIn::Sip { uri: "sip:genagent@x".to_owned(), returns });
    let challenged = "sip.access = ['192.0.2.10']\nsip.challenge = ['192.0.2.10']\nuser.ga.password = 'x'\n";
    with(&format!("{challenged}{invite}asapp.return_user = 'ga'")).unwrap();
}

#[test]
fn h11_listeners_of_both_families_and_what_peers_of_each_are_told() {
    let config = with(
        "sip.listen = ['127.0.0.1:5062', '[::]:5064']\nsip.tcp_listen = '[::]:5066'\n\
         sip.advertise = ['[2001:db8::1]:5070', '203.0.113.7']\n\
         media.address = ['127.0.0.1', '::1']\nmedia.advertise = '2001:db8::9'\n",
    )
    .unwrap();
    let settings = config.core_settings();
    let address = |text: &str| text.parse::<SocketAddr>().unwrap();
    assert_eq!(settings.sip_address, address("203.0.113.7:5062"));
    let others =
        [(Transport::Udp, address("[2001:db8::1]:5070")), (Transport::Tcp, address("[2001:db8::1]:5066"))].to_vec();
    assert_eq!(settings.sip_others, others);
    assert_eq!(settings.media_addresses, ["127.0.0.1", "2001:db8::9"].map(|ip| ip.parse::<IpAddr>().unwrap()));
    let text = config.explain();
    for part in [
        "UDP on 127.0.0.1:5062 (peers are told 203.0.113.7:5062)",
        "UDP on [::]:5064 (peers are told [2001:db8::1]:5070)",
        "TCP on [::]:5066 (peers are told [2001:db8::1]:5066)",
        "RTP passes through 127.0.0.1 and ::1 (peers are told 2001:db8::9) ports",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let listed = from_environment(&[("SWITCHBACK__SIP__LISTEN", "127.0.0.1:5062, [::1]:5062")]).unwrap();
    assert_eq!(listed.sip.listen.len(), 2);
    assert!(listed.warnings().iter().any(|warning| warning.contains("IPv6 media get 488")));
}

#[test]
fn h11_a_trunk_in_a_family_that_is_not_ours_is_refused() {
    for more in ["", "[sip]\nlisten = ['127.0.0.1:5060', '[::1]:5060']\n"] {
        let toml = format!("{more}{}", LEAST.replace("192.0.2.10:5060", "[2001:db8::10]:5060"));
        let error = Config::parse(&toml).unwrap_err().to_string();
        let key = if more.is_empty() { "sip.listen" } else { "media.address" };
        assert!(error.contains("cannot be called") && error.contains(key), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn secrets_come_from_files_and_are_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, "s3cret\n").unwrap();
    let toml = |file: &Path| {
        format!("trunk.main.address = 'a:1'\nasapp.api_id = 'visible'\nasapp.api_secret_file = '{}'", file.display())
    };
    let config = Config::parse(&toml(&file)).unwrap();
    assert_eq!(config.asapp.api_secret.expose_secret(), "s3cret");
    let shown = format!("{config:?} {} {}", config.explain(), serde_json::to_string(&config).unwrap());
    assert!(!shown.contains("s3cret") && !shown.contains("visible"));
    let error = Config::parse(&toml(&folder.path().join("absent"))).unwrap_err().to_string();
    assert!(error.contains("asapp.api_secret_file: cannot read"), "{error}");
    std::fs::write(&file, "\n").unwrap();
    assert!(Config::parse(&toml(&file)).unwrap_err().to_string().contains("is empty"));
}

#[test]
fn a_file_that_is_missing_or_torn_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("switchback.toml");
    assert!(Config::load(Some(&path)).unwrap_err().to_string().contains("switchback.toml"));
    std::fs::write(&path, "[sip\n").unwrap();
    assert!(Config::load(Some(&path)).unwrap_err().to_string().contains("switchback.toml"));
    std::fs::write(&path, LEAST).unwrap();
    Config::load(Some(&path)).unwrap();
    std::fs::write(&path, format!("{LEAST}[sipp]\n")).unwrap();
    let error = Config::load(Some(&path)).unwrap_err().to_string();
    assert!(error.contains("switchback.toml is not known"), "{error}");
}

#[test]
fn durations_are_read_as_people_write_them() {
    for (text, ms) in
        [("150ms", 150), ("8s", 8000), ("8", 8000), ("0.5", 500), ("1.5m", 90_000), ("2h", 7_200_000), (" 3 s ", 3000)]
    {
        assert_eq!(span::parse(text), Some(Duration::from_millis(ms)), "{text}");
    }
    for text in ["", "s", "-1s", "8 days", "1e9", "99999999999999h", "1.2.3s"] {
        assert_eq!(span::parse(text), None, "{text}");
    }
    for text in ["0s", "150ms", "8s", "5m", "2h", "61s"] {
        assert_eq!(span::format(span::parse(text).unwrap()), text);
    }
}

#[test]
fn a_profile_begins_as_the_context_then_comes_its_preset_then_its_own_keys() {
    let config = with(
        "sip.access = ['10.0.0.0/8']\n[context]\npreset = 'asterisk'\nmax_value = 100\nuui = 'json'\n\
         [profile.plain]\nmax_lines = 500\n\
         [profile.genesys]\npreset = 'genesys'\npeers = ['10.0.0.5']\nmax_uui = 64\n\
         [target.queue]\nuri = 'sip:q@pbx'\nprofile = 'genesys'\n",
    )
    .unwrap();
    let settings = config.core_settings();
    let [context, plain, genesys] =
        [None, Some("plain"), Some("genesys")].map(|name| settings.call.profile(name).clone());
    assert_eq!((context.causes[&Outcome::System], context.max_value, context.uui), (31, 100, Uui::Json));
    assert_eq!((plain.causes[&Outcome::System], plain.max_value, plain.max_lines), (31, 100, 500));
    assert_eq!((plain.uui, plain.preset.as_str()), (Uui::Json, "asterisk"));
    assert!(genesys.causes.is_empty(), "another preset takes the place of the context's");
    assert_eq!((genesys.max_value, genesys.uui, genesys.uui_form, genesys.max_uui), (100, Uui::Kv, UuiForm::Isdn, 64));
    assert_eq!(settings.profiles.len(), 1);
    assert_eq!(settings.call.targets["queue"].profile.as_deref(), Some("genesys"));
}

#[test]
fn every_preset_can_be_used_and_every_value_of_it_replaced() {
    let presets = File::from_str(include_str!("presets.toml"), FileFormat::Toml).collect().unwrap();
    let mut names: Vec<&String> = presets.keys().collect();
    names.sort();
    let known = ["amazon-connect", "asterisk", "avaya", "cisco", "freeswitch", "generic", "genesys", "twilio"];
    assert_eq!(names, known);
    for name in names {
        let config =
            with(&format!("[profile.it]\npreset = '{name}'\n")).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(config.profile["it"].context.preset, *name);
        let own = "uui = 'off'\nuui_form = 'hex'\nmax_lines = 800\ncauses = {}\n";
        let config = with(&format!("[profile.it]\npreset = '{name}'\n{own}")).unwrap();
        let generic = ContextSettings { preset: name.clone(), ..ContextSettings::default() };
        assert_eq!(format!("{:?}", config.profile["it"].context), format!("{generic:?}"));
    }
}

#[test]
fn a_webhook_that_cannot_work_is_refused_with_its_fix() {
    let rule = "[[rule]]\nwhen.entry = 'supervised'\nladder = ['webhook:router', 'bye', 'refuse:480']\n";
    let url = "[webhook.router]\nurl = 'https://router.example.com/next'\n";
    with(&format!("{rule}{url}secret = 'abc'\n")).unwrap();
    for (lines, hint) in [
        (rule.to_owned(), "names the webhook `router`, which is not there"),
        ("[webhook.router]\nurl = 'router.example.com'".to_owned(), "is no URL"),
        ("[webhook.router]\nurl = 'http://127.0.0.1:9/'".to_owned(), "allow_http"),
        (format!("{url}timeout = '10m'"), "call.ladder_limit"),
        (format!("{url}secret = 'a b'"), "copy it again"),
        (format!("{url}secret = 'a'\nsecret_file = 'x'"), "both given"),
        (format!("{url}uri = 'x'"), "did you mean `webhook.*.url`"),
        (format!("{url}[[rule]]\nladder = 'webhook:router'"), "no last answer"),
    ] {
        let error = refusal(&lines);
        assert!(error.contains(hint), "{lines}: {error}");
        assert_eq!(error.lines().count(), 1, "{lines}: {error}");
    }
}

#[test]
fn a_profile_that_cannot_work_is_refused_with_its_fix() {
    for (lines, hint) in [
        ("context.preset = 'asterix'", "there is no preset `asterix`: write one of "),
        ("[profile.it]\nuui = 'yes'", "unknown variant `yes`"),
        ("[profile.it]\nuuui = 'ref'", "did you mean `profile.*.uui`"),
        ("[profile.it]\npeers = ['10.0.0.1']", "who cannot call us: add it to sip.access"),
        (
            "sip.access = ['10.0.0.0/8']\n[profile.a]\npeers = ['10.0.0.1']\n[profile.b]\npeers = ['10.0.0.1']",
            "both hold 10.0.0.1/32",
        ),
        ("[target.q]\nuri = 'sip:q@pbx'\nprofile = 'it'", "write [profile.it]"),
        ("trunk.main.profile = 'it'", "write [profile.it]"),
        (
            "[profile.a]\npreset = 'generic'\n[[rule]]\nwhen.profile = ['a', 'b*']\nwhen.entry = 'supervised'\n\
             ladder = ['bye', 'refuse:480']",
            "when.profile = \"b*\" is nobody's",
        ),
        ("[profile.it]\nmax_uui = 4", "profile.it.max_uui = 4 is out of range"),
        ("[profile.it]\ntransfer_header = 'f'", "profile.it.transfer_header = \"f\" belongs to SIP"),
        ("[context.causes]\nagent = 0", "context.causes.agent = 0 is out of range"),
        ("[context.causes]\nagnt = 16", "unknown variant `agnt`"),
    ] {
        let error = refusal(lines);
        assert!(error.contains(hint), "{lines}: {error}");
        assert_eq!(error.lines().count(), 1, "{lines}: {error}");
    }
}

/// The recipes, by file name.
fn recipes() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/recipes");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    let mut recipes: Vec<_> = files.map(|path| (name(&path), std::fs::read_to_string(&path).unwrap())).collect();
    recipes.sort();
    assert_eq!(recipes.len(), 9, "eight receivers and what holds for all of them");
    recipes
}

#[test]
fn every_fragment_in_a_recipe_can_be_used_and_its_preset_is_there() {
    for (name, text) in recipes().iter().filter(|(name, _)| name != "README.md") {
        let blocks: Vec<&str> = text.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
        assert!(!blocks.is_empty(), "{name} says nothing about our side");
        for block in blocks {
            let config = with(block).unwrap_or_else(|error| panic!("{name}: {error}\n{block}"));
            assert!(!config.profile.is_empty(), "{name} names no profile");
            let lost = config.warnings().into_iter().find(|warning| warning.contains("hangs up on its customer"));
            assert_eq!(lost, None, "{name}\n{block}");
        }
    }
}

#[test]
fn every_header_and_path_in_a_recipe_is_one_of_ours() {
    let (context, intake) = (ContextSettings::default(), IntakeSettings::default());
    let whole = [
        &context.transfer_header,
        &context.conversation_header,
        &context.reference_header,
        &context.outcome_header,
        &intake.conversation_header,
        &intake.task_header,
        &intake.customer_header,
    ];
    let prefixes = [&context.transfer_prefix, &context.reference_prefix, &intake.variable_prefix];
    for (name, text) in recipes() {
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
        for word in words.filter(|word| word.starts_with("X-GA") || word.starts_with("X-Switchback")) {
            let ours = whole.iter().any(|header| *header == word)
                || prefixes.iter().any(|prefix| word.len() > prefix.len() && word.starts_with(*prefix));
            assert!(ours, "{name}: no message of ours has {word}");
        }
        for path in text.split("/v1/").skip(1) {
            assert!(
                ["context/", "context?call_id="].iter().any(|known| path.starts_with(known)),
                "{name}: /v1/{path:.20}"
            );
        }
    }
}

#[test]
fn the_closed_door_is_mentioned() {
    let warnings = Config::parse(LEAST).unwrap().warnings();
    assert!(warnings.contains(&"nobody can call us: name your IVR in sip.access".to_owned()));
    let open = "sip.access = ['10.0.0.0/8']\ntrunk.main.caller_id = '+15550100'\ncall.entry = 'supervised'\n";
    let here =
        |listen: &str, media: &str| with(&format!("{open}sip.listen = '{listen}:5060'\nmedia.address = '{media}'"));
    let inside = here("127.0.0.1", "127.0.0.1").unwrap().warnings();
    let keys = ["sip.listen", "media.address"];
    assert!(
        inside.len() == 2 && (0..2).all(|at| inside[at].starts_with(keys[at]) && inside[at].contains("192.0.2.10"))
    );
    let quiet = here("10.0.0.1", "10.0.0.1").unwrap();
    assert_eq!(quiet.warnings(), Vec::<String>::new());
    let odd = with("sip.max_calls = 9999\nsip.access = ['0.0.0.0/0']\nrecords.path = 'none'").unwrap();
    assert_eq!(odd.warnings().len(), 7, "{:?}", odd.warnings());
}

#[test]
fn the_explanation_names_every_outcome() {
    let rules = format!(
        "{QUEUE}[[rule]]\nwhen.reason = 'api_down'\nladder = 'redirect:queue'\n\
         [[rule]]\nwhen.outcome = 'agent'\nwhen.variables.Tier = ['gold*', 'vip']\nladder = 'dial:queue'\n\
         [[rule]]\nwhen.outcome = 'agent'\nwhen.variables.Tier = 'lead'\nladder = 'webhook:router'\n\
         [[rule]]\nwhen.outcome = 'agent'\nwhen.profile = 'pbx'\nladder = 'refer:queue'\n\
         [webhook.router]\nurl = 'https://r/next'\n[profile.pbx]\npreset = 'genesys'\npeers = ['10.0.0.5']\n"
    );
    let text = with(&format!("sip.access = ['10.0.0.0/8']\n{rules}")).unwrap().explain();
    for outcome in crate::call::verdict::Outcome::ALL {
        assert!(text.contains(&format!("\n  {outcome} ")), "{outcome}:\n{text}");
    }
    for line in [
        "not_connected     supervised    if api_down: redirect:queue",
        "not_connected     redirected    refuse:480",
        "agent             redirected    if Tier gold* or vip: dial:queue, then BYE with the cause",
        "agent             redirected    bye (!)",
        "operator          supervised    not answered: refuse:480",
        "Target queue: sip:q@pbx; each may ring 30s or be silent 6s; a REFER to it is accepted within 5s and may then be silent 30s.",
        "Webhook router: https://r/next, asked for up to 2s.",
        "Profile pbx (genesys), for 10.0.0.5/32: headers X-GA-tv-NAME, User-to-User with name=value, X-Switchback-Context.",
        "Everybody else (generic): headers X-GA-tv-NAME, X-Switchback-Context.",
        "agent             supervised    if Tier lead: webhook:router, then BYE with the cause",
        "agent             supervised    if profile pbx: refer:queue, then BYE with the cause",
    ] {
        assert!(text.contains(line), "{line}:\n{text}");
    }
    assert!(with("").unwrap().explain().contains("nobody: sip.access is empty"));
}

#[test]
fn what_is_remembered_is_explained_and_a_forgeable_number_is_warned_of() {
    let usual = with("").unwrap();
    assert!(usual.explain().contains("remembered for 30m in memory, until the program ends"), "{}", usual.explain());
    assert!(!usual.explain().contains("the caller's number."));
    let kept = with("conversations.path = '/var/lib/switchback/c.redb'\nconversations.by_caller = true\n").unwrap();
    assert!(
        kept.explain().contains("or the caller's number.") && kept.explain().contains("in /var/lib/switchback/c.redb")
    );
    assert!(kept.warnings().iter().any(|warning| warning.contains("conversations.by_caller")));
    let off = with("conversations.resume_window = '0s'").unwrap();
    assert!(off.explain().contains("not remembered"));
    assert!(refusal("conversations.max = 0").contains("conversations.max = 0 is out of range"));
}

#[test]
fn a_refer_may_name_any_form_of_a_number_and_is_explained() {
    let rule = "[target.q]\nuri = ['tel:+1-555-0100', 'sips:q@pbx;user=phone']\n\
                [[rule]]\nladder = ['refer:q', 'refuse:480']\n";
    let config = with(rule).unwrap();
    let text = config.explain();
    assert!(text.contains("agent             redirected    refer:q, then BYE with the cause"), "{text}");
    assert!(config.warnings().iter().all(|warning| !warning.contains("hangs up")), "{:?}", config.warnings());
    assert!(config.core_settings().targets["q"].is_empty(), "nobody looks for what we do not call ourselves");
}

#[test]
fn a_peer_that_asks_who_we_are_has_an_address_and_our_credentials() {
    let whole = "sip.access = ['192.0.2.30']\n[peer.pbx]\nfrom = ['192.0.2.30']\nusername = 'us'\npassword = 'word'\nrealm = 'pbx'\n";
    let settings = with(whole).unwrap().core_settings();
    let credentials = |at: &str| settings.peers_at(at.parse().unwrap()).find_map(|peer| peer.credentials.clone());
    let ours = credentials("192.0.2.30").unwrap();
    assert_eq!((ours.username.as_str(), ours.realm.as_deref()), ("us", Some("pbx")));
    assert!(credentials("192.0.2.31").is_none());
    for (lines, hint) in [
        ("[peer.pbx]\nusername = 'us'\npassword = 'word'", "peer.pbx is nobody"),
        ("[peer.pbx]\nfrom = ['192.0.2.30']\nusername = 'us'", "half of its credentials"),
        ("[peer.pbx]\nfrom = ['everybody']\nusername = 'us'\npassword = 'word'", "is not a network"),
    ] {
        let error = refusal(lines);
        assert!(error.contains(hint), "{lines}: {error}");
    }
}

#[test]
fn a_sound_is_noise_silence_a_tone_or_a_file() {
    let config = with("[sounds]\nwaiting = 'file:/srv/music.wav'\nringback = 'tone:gb'\nhold = 'silence'\n").unwrap();
    assert_eq!(config.sounds.waiting, super::Source::File("/srv/music.wav".into()));
    assert_eq!(config.core_settings().call.announcement_limit, Duration::ZERO, "nothing is said");
    let told = config.explain();
    assert!(told.contains("hears tone:gb before the answer, file:/srv/music.wav while he waits"), "{told}");
    let config = with("[sounds]\nannouncement = 'file:sorry.wav'\nannouncement_limit = '20s'\n").unwrap();
    assert_eq!(config.core_settings().call.announcement_limit, Duration::from_secs(20));
    assert!(config.explain().contains("hears file:sorry.wav, at most 20s, and BYE follows"), "{}", config.explain());
    for wrong in ["", "noise", "tone:", "tone", "file:", "silence:x", "/srv/music.wav"] {
        let refusal = refusal(&format!("[sounds]\nwaiting = '{wrong}'\n"));
        assert!(refusal.contains("is not a sound: write \"comfort_noise\""), "{refusal}");
    }
    assert!(refusal("[sounds]\nmax_length = '2h'\n").contains("sounds.max_length = \"2h\" is out of range"));
}
