use std::collections::BTreeMap;

use secrecy::ExposeSecret;

use super::words::span;
use super::*;

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
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name.to_owned();
        }
        let bare = line.strip_prefix('#').unwrap_or(line);
        if let Some((key, _)) = bare.split_once(" = ")
            && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        {
            found.push((format!("{section}.{key}"), bare.to_owned(), line.ends_with("# example")));
        }
    }
    found
}

#[test]
fn the_example_loads_and_shows_every_key() {
    Config::parse(EXAMPLE).unwrap();
    let shown: Vec<String> = commented(EXAMPLE).into_iter().map(|(key, _, _)| gather::general(&key)).collect();
    let known: Vec<String> = gather::known_keys().into_keys().collect();
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
            _ => "",
        };
        with(&format!("{}{companion}", key_line(&key, &line))).unwrap_or_else(|error| panic!("{key}: {error}"));
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
    assert_eq!(settings.max_calls, 2500);
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
        ("sip.listen = 'here'", "sip.listen", "socket address"),
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
        ("media.ports = '20000-20001'", "four ports"),
        ("media.ports = '5000-5999'", "contains the SIP port"),
        ("media.address = '0.0.0.0'", "write media.advertise"),
        ("sip.listen = '0.0.0.0:5060'", "write sip.advertise"),
        ("sip.listen = '127.0.0.1:0'", "write a port"),
        ("intake.task_header = 'X Task'", "not a header name"),
        ("intake.task_header = 'Call-ID'", "belongs to SIP"),
        ("context.transfer_header = 'f'", "belongs to SIP"),
        ("context.transfer_prefix = 'Con'", "a longer one"),
        ("context.outcome_header = 'x-ga-transfer'", "a name of its own"),
        ("context.transfer_prefix = 'x-ga-t'", "lets a variable pass for context.transfer_header"),
        ("sip.product = \"a\\r\\nb\"", "plain letters"),
        ("fallback.status = 200", "400 to 699"),
        ("fallback.status = 480\nfallback.redirect = 'sip:a@b'", "keep one"),
        ("fallback.redirect = 'sip:a@b>'", "not a SIP URI"),
        ("asapp.base_url = 'http://127.0.0.1:9'", "allow_http"),
        ("asapp.base_url = 'ftp://x'", "https://api.asapp.com"),
        ("asapp.number_prefixes = ['1']", "plus sign"),
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
fn the_closed_door_is_mentioned() {
    let warnings = Config::parse(LEAST).unwrap().warnings();
    assert!(warnings.contains(&"nobody can call us: name your IVR in sip.access".to_owned()));
    let quiet = with("sip.access = ['10.0.0.0/8']\ntrunk.main.caller_id = '+15550100'").unwrap();
    assert_eq!(quiet.warnings(), Vec::<String>::new());
    let odd = with("sip.max_calls = 9999\nsip.access = ['0.0.0.0/0']\nrecords.path = 'none'").unwrap();
    assert_eq!(odd.warnings().len(), 4, "{:?}", odd.warnings());
}

#[test]
fn the_explanation_names_every_outcome() {
    let config = with("fallback.redirect = 'sip:queue@pbx'").unwrap();
    let text = config.explain();
    for outcome in crate::call::verdict::Outcome::ALL {
        assert!(text.contains(&format!("\n  {outcome} ")), "{outcome}:\n{text}");
    }
    assert!(text.contains("302 to sip:queue@pbx"), "{text}");
    assert!(text.contains("nobody: sip.access is empty"), "{text}");
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
