//! Recipes that are tried as they are written: the blocks of deploy/recipes/kamailio.md, with the test's addresses.

use crate::kamailio::Kamailio;
use crate::phone::{Phone, Stack};
use crate::talk::{CUSTOMER, GENAGENT, ended};
use crate::tshark::{Capture, read};
use crate::world::{BEHIND, DEVICES, FRONT, Over, SWITCHBACK, World};

const RECIPE: &str = include_str!("../../deploy/recipes/kamailio.md");

/// The one block of this language.
fn block(language: &str) -> &'static str {
    let (_, rest) = RECIPE.split_once(&format!("```{language}\n")).unwrap();
    rest.split_once("```").unwrap().0
}

/// An IVR calls through Kamailio, GenerativeAgent hangs up, and our BYE with the context comes to the IVR through
/// Kamailio.
pub async fn kamailio() {
    let ours = block("toml").replace("10.0.0.7", &FRONT.to_string());
    // Who may call stands in the world's configuration already.
    let profile = ours.strip_prefix(&format!("[sip]\naccess = [\"{FRONT}\"]\n")).unwrap();
    let world = World::behind_a_proxy(profile).await;
    let theirs = block("kamailio").replace("10.0.0.20", &SWITCHBACK.to_string());
    let theirs = theirs.replace("10.0.0.7", &FRONT.to_string()).replace("10.0.0.5", &world.customer.ip.to_string());
    let _front = Kamailio::configured(&theirs, Over::Tcp.at(FRONT), world.room("front")).await;
    let genagent_uri = format!("sip:{};transport=udp", Over::Udp.at(world.genagent.ip));
    let _behind = Kamailio::start(BEHIND, &genagent_uri, world.room("behind")).await;
    let file = world.path("call.pcapng");
    let capture = Capture::begin(&DEVICES, "udp port 5060", &file).await;
    let mut ivr = Phone::start(Stack::Pjsua, &world.customer, Over::Udp, CUSTOMER, world.room("customer-room")).await;
    let mut genagent =
        Phone::start(Stack::Baresip, &world.genagent, Over::Udp, GENAGENT, world.room("genagent-room")).await;

    ivr.obey(&format!("dial {}", world.dialled()));
    for phone in [&ivr, &genagent] {
        phone.says("CALL_ESTABLISHED", 1).await;
    }
    crate::handback::both_hear((&world.customer, GENAGENT), (&world.genagent, CUSTOMER)).await;
    genagent.obey("hangup");
    ivr.says("CALL_CLOSED", 1).await;
    let record = world.records(1).await.remove(0);
    ended(&record, "agent", "genagent");
    assert_eq!(record["hand_back"]["rungs"][0]["rung"], "bye", "{record}");
    capture.end().await;

    let bye = format!("sip.Method == \"BYE\" && ip.dst == {}", world.customer.ip);
    let bye = read(&file, &["-Y", &bye, "-V"]);
    let has = |text: &str| bye.iter().any(|line| line.contains(text));
    assert!(has(&format!("Src: {FRONT}")) && !has(&format!("Src: {SWITCHBACK}")), "{}", bye.join("\n"));
    for line in ["Reason: Q.850;cause=16", "X-Switchback-Outcome: agent", "X-GA-transfer: AGENT", "X-GA-tv-orderNumber"]
    {
        assert!(has(line), "{line}: {}", bye.join("\n"));
    }
    world.close().await;
}
