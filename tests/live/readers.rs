//! T12: what we write is read by stacks that others wrote, to the last octet: sofia-sip and libre, by two small programs
//! in C, and SIPp. pjsip's reading is in the peers suite, where it follows the REFER.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use switchback::demo::sdp;

use crate::awkward::{VALUES, left_behind};
use crate::stage::{SOON, Setting, Stage};
use crate::wire::{Heard, Wire};

const INSTALL: &str = "tests/run installs it, or: apt-get install -y build-essential libsofia-sip-ua-dev libre-dev";
const TALK: Duration = Duration::from_millis(300);
/// Headers inside the URI of Refer-To.
const URI: &str = "uri";
/// Headers of the request.
const HEAD: &str = "head";

/// A program that reads one request with somebody else's stack.
struct Reader(PathBuf);

impl Reader {
    /// Compiles it into the stage's folder.
    fn compiled(stage: &Stage, name: &str, options: &[&str]) -> Self {
        let source = format!("{}/tests/live/readers/{name}.c", env!("CARGO_MANIFEST_DIR"));
        let program = stage.path(name);
        let made = Command::new("cc").arg("-o").arg(&program).arg(source).args(options).output();
        let made = made.unwrap_or_else(|error| panic!("cc: {error}; {INSTALL}"));
        assert!(made.status.success(), "{name}; {INSTALL}\n{}", String::from_utf8_lossy(&made.stderr));
        Self(program)
    }

    fn both(stage: &Stage) -> [Self; 2] {
        let sofia = Self::compiled(stage, "sofia", &["-I/usr/include/sofia-sip-1.12", "-lsofia-sip-ua"]);
        [sofia, Self::compiled(stage, "re", &["-lre"])]
    }

    /// Where it found a header, the header's name, and its value.
    fn read(&self, request: &Heard) -> Vec<(String, String, String)> {
        let mut child = Command::new(&self.0).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(request.text.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{} cannot read\n{}", self.0.display(), request.text);
        let said = String::from_utf8(output.stdout).unwrap();
        let words = said.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        words.map(|words| (words[0].to_owned(), words[1].to_owned(), text(words[2]))).collect()
    }

    /// The values of a header, in order.
    fn values(&self, request: &Heard, place: &str, name: &str) -> Vec<String> {
        let found = self.read(request).into_iter().filter(|(at, is, _)| at == place && is.eq_ignore_ascii_case(name));
        found.map(|(_, _, value)| value).collect()
    }
}

fn text(hexadecimal: &str) -> String {
    let octet = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    String::from_utf8(hexadecimal.as_bytes().chunks(2).map(octet).collect()).unwrap()
}

/// A call of which GenerativeAgent leaves awkward values behind: the REFER, which the IVR declines, and the BYE then.
async fn refer_and_bye(stage: &Stage) -> (Heard, Heard) {
    let ivr = Wire::open(stage.street.ivr()).await;
    let carrier = stage.carrier("carrier_hangs_up").pause(TALK).start();
    let offer = sdp::describe(stage.street.at(3, 9000));
    ivr.send(stage.street.switchback(), &ivr.request("INVITE", "t12", "invite", "", &offer)).await;
    ivr.hear("SIP/2.0 100 ").await;
    ivr.hear("SIP/2.0 180 ").await;
    let answer = ivr.hear("SIP/2.0 200 ").await;
    ivr.send(stage.street.switchback(), &ivr.request("ACK", "t12", "ack", &answer.to_tag(), "")).await;
    let refer = ivr.hear("REFER ").await;
    ivr.answer(&refer, "603 Decline", "").await;
    let bye = ivr.hear("BYE ").await;
    ivr.answer(&bye, "200 OK", "").await;
    carrier.well(SOON).await;
    (refer, bye)
}

/// The stage for it, with values in headers written like this.
async fn stage(encoding: &str) -> Stage {
    const RULES: &str = "[target.queue]\nuri = 'sip:queue@QUEUE'\n\
                         [[rule]]\nwhen.outcome = 'agent'\nladder = ['refer:queue', 'bye']\n";
    let setting = Setting::default().behaviour(left_behind()).rules(RULES);
    Stage::set(
        setting.key("context.uui", "kv").key("context.max_invite_lines", "1000").key("context.encoding", encoding),
    )
    .await
}

/// User-to-User in each of both requests, undone.
fn user_to_user(value: &str) -> String {
    text(value.strip_suffix(";encoding=hex").unwrap())
}

#[tokio::test]
async fn t12_sofia_sip_and_libre_read_what_we_put_into_refer_to_and_bye() {
    let stage = stage("percent").await;
    let readers = Reader::both(&stage);
    let (refer, bye) = refer_and_bye(&stage).await;
    for reader in &readers {
        for (name, _, written) in VALUES {
            let header = format!("X-GA-tv-{name}");
            assert_eq!(reader.values(&refer, URI, &header), [written], "{}", refer.text);
            assert_eq!(reader.values(&bye, HEAD, &header), [written], "{}", bye.text);
        }
        for (request, place) in [(&refer, URI), (&bye, HEAD)] {
            assert_eq!(reader.values(request, place, "X-GA-transfer"), ["AGENT"]);
            let told = user_to_user(&reader.values(request, place, "User-to-User")[0]);
            assert!(told.contains("&outcome=agent&transfer=AGENT&"), "{told}");
        }
        let reasons = reader.values(&bye, HEAD, "Reason");
        assert_eq!(reasons[0], "Q.850;cause=16", "{}", bye.text);
    }
    stage.close(&[]).await;
}

#[tokio::test]
async fn t12_sofia_sip_and_libre_read_values_that_are_escaped_once() {
    let stage = stage("plain").await;
    let readers = Reader::both(&stage);
    let (refer, bye) = refer_and_bye(&stage).await;
    for reader in &readers {
        for (name, value, _) in VALUES {
            let header = format!("X-GA-tv-{name}");
            // Plain is ASCII alone.
            let expected: Vec<&str> = Some(value).filter(|value| value.is_ascii()).into_iter().collect();
            assert_eq!(reader.values(&refer, URI, &header), expected, "{}", refer.text);
            assert_eq!(reader.values(&bye, HEAD, &header), expected, "{}", bye.text);
        }
    }
    stage.close(&[]).await;
}

#[tokio::test]
async fn t12_sipp_reads_the_context_of_a_bye() {
    let stage = stage("percent").await;
    let carrier = stage.carrier("carrier_hangs_up").pause(TALK).start();
    let read = |name: &str, header: &str| {
        format!(
            "<ereg regexp=\"[^ ].*\" search_in=\"hdr\" header=\"{header}:\" check_it=\"true\" assign_to=\"{name}\"/>"
        )
    };
    let names = VALUES.map(|(name, _, _)| name);
    let reads: String = names.iter().map(|name| read(name, &format!("X-GA-tv-{name}"))).collect();
    let logs: String = names.iter().map(|name| format!("bye_{name}=[${name}] | ")).collect();
    let log = "<log message=\"reason=[$reason] | \"/>";
    let more =
        format!("{reads}{}<log message=\"reason=[$reason] | uui=[$uui] | {logs}\"/>", read("uui", "User-to-User"));
    let played = stage.ivr("ivr_refuses_refer").saying(&more, log).play(SOON).await;
    carrier.well(SOON).await;
    assert_eq!(played.logged("reason"), ["Q.850;cause=16"]);
    for (name, _, written) in VALUES {
        assert_eq!(played.logged(&format!("bye_{name}")), [written]);
    }
    assert!(user_to_user(played.logged("uui")[0]).contains("&outcome=agent&transfer=AGENT&"));
    stage.close(&[]).await;
}
