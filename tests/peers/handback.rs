//! H3: the customer's own stack does what our REFER asks: it calls the queue, and says so.

use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::awkward;
use crate::door::Door;
use crate::phone::{Phone, Stack};
use crate::stage::{SOON, handed_over};
use crate::talk::{CUSTOMER, GENAGENT, LISTENING, SETTLING, ended, is_heard};
use crate::tone::Tone;
use crate::world::{IVR, NUMBER, Over, Place, QUEUE, World};

/// What the queue says.
pub const AT_THE_QUEUE: Tone = Tone(1800);

/// The queue's row in the configuration, and a ladder that begins with a REFER to it.
fn rules() -> String {
    format!(
        "[call]\nentry = 'supervised'\n[target.queue]\nuri = 'sip:{NUMBER}@{QUEUE}'\n\
         [[rule]]\nwhen.outcome = 'agent'\nladder = ['refer:queue', 'bye']\n"
    )
}

/// GenerativeAgent hangs up; the customer's stack calls the queue, and our leg to it ends.
pub async fn play(customer: Stack, queue: Stack) {
    let world = World::handing_back(handed_over("AGENT"), &rules()).await;
    let place = world.behind_the_customer("queue", QUEUE);
    let mut caller = Phone::start(customer, &world.customer, Over::Udp, CUSTOMER, world.room("customer-room")).await;
    let mut genagent =
        Phone::start(Stack::Pjsua, &world.genagent, Over::Udp, GENAGENT, world.room("genagent-room")).await;
    let queue = Phone::start(queue, &place, Over::Udp, AT_THE_QUEUE, world.room("queue-room")).await;

    caller.obey(&format!("dial {}", world.dialled()));
    for phone in [&caller, &genagent] {
        phone.says("CALL_ESTABLISHED", 1).await;
    }
    both_hear((&world.customer, GENAGENT), (&world.genagent, CUSTOMER)).await;
    genagent.obey("hangup");
    queue.says("CALL_ESTABLISHED", 1).await;
    caller.says("CALL_ESTABLISHED", 2).await;
    caller.says("CALL_CLOSED", 1).await;
    both_hear((&world.customer, AT_THE_QUEUE), (&place, CUSTOMER)).await;
    assert_eq!(queue.times("CALL_CLOSED"), 0, "the customer stays at the queue");

    let record = world.records(1).await.remove(0);
    ended(&record, "agent", "genagent");
    let rung = &record["hand_back"]["rungs"][0];
    assert_eq!((&rung["rung"], &rung["result"]), (&"refer:queue".into(), &"transferred".into()), "{record}");
    world.close().await;
}

/// T2, H3: the IVR sends its caller on to us by a REFER that we do not see, and leaves. GenerativeAgent solves it, and the
/// caller is sent on to the queue. At every stage the two who talk hear each other.
pub async fn redirected() {
    const AT_THE_IVR: Tone = Tone(2600);
    let rules = format!(
        "[target.queue]\nuri = 'sip:{NUMBER}@{QUEUE}'\n\
         [[rule]]\nwhen.entry = 'redirected'\nwhen.answered = true\nladder = ['refer:queue', 'dial:queue']\n"
    );
    let world = World::handing_back(handed_over("SYSTEM"), &rules).await;
    let (at_ivr, at_queue) = (world.behind_the_customer("ivr", IVR), world.behind_the_customer("queue", QUEUE));
    let room = |name: &str| world.room(name);
    let mut caller = Phone::start(Stack::Pjsua, &world.customer, Over::Udp, CUSTOMER, room("customer-room")).await;
    let mut ivr = Phone::start(Stack::Pjsua, &at_ivr, Over::Udp, AT_THE_IVR, room("ivr-room")).await;
    let mut genagent = Phone::start(Stack::Baresip, &world.genagent, Over::Udp, GENAGENT, room("genagent-room")).await;
    let queue = Phone::start(Stack::Baresip, &at_queue, Over::Udp, AT_THE_QUEUE, room("queue-room")).await;

    caller.obey(&format!("dial sip:{NUMBER}@{IVR}"));
    ivr.says("CALL_ESTABLISHED", 1).await;
    both_hear((&world.customer, AT_THE_IVR), (&at_ivr, CUSTOMER)).await;
    ivr.obey(&format!("transfer {}", world.dialled()));
    genagent.says("CALL_ESTABLISHED", 1).await;
    caller.says("CALL_ESTABLISHED", 2).await;
    ivr.obey("hangup");
    caller.says("CALL_CLOSED", 1).await;
    both_hear((&world.customer, GENAGENT), (&world.genagent, CUSTOMER)).await;
    genagent.obey("hangup");
    queue.says("CALL_ESTABLISHED", 1).await;
    caller.says("CALL_CLOSED", 2).await;
    both_hear((&world.customer, AT_THE_QUEUE), (&at_queue, CUSTOMER)).await;
    caller.obey("hangup");
    queue.says("CALL_CLOSED", 1).await;

    let record = world.records(1).await.remove(0);
    // Only the rule for redirected customers has a REFER.
    ended(&record, "system", "genagent");
    let rungs = &record["hand_back"]["rungs"];
    assert_eq!((&rungs[0]["rung"], &rungs[0]["result"]), (&"refer:queue".into(), &"transferred".into()), "{record}");
    world.close().await;
}

/// T12: what pjsip puts into the INVITE to the queue is what GenerativeAgent left behind.
pub async fn pjsip_reads_refer_to() {
    let room = "[context]\nuui = 'kv'\nmax_invite_lines = 1000\n";
    let world = World::handing_back(awkward::left_behind(), &(rules() + room)).await;
    let place = world.behind_the_customer("queue", QUEUE);
    let queue = place.within(|| std::net::UdpSocket::bind((QUEUE, 5060)).unwrap());
    queue.set_nonblocking(true).unwrap();
    let queue = UdpSocket::from_std(queue).unwrap();
    let mut caller =
        Phone::start(Stack::Pjsua, &world.customer, Over::Udp, CUSTOMER, world.room("customer-room")).await;
    let mut genagent =
        Phone::start(Stack::Baresip, &world.genagent, Over::Udp, GENAGENT, world.room("genagent-room")).await;
    caller.obey(&format!("dial {}", world.dialled()));
    genagent.says("CALL_ESTABLISHED", 1).await;
    genagent.obey("hangup");

    let mut octets = [0; 4096];
    let (length, pjsip) = timeout(SOON, queue.recv_from(&mut octets)).await.unwrap().unwrap();
    let invite = std::str::from_utf8(&octets[..length]).unwrap();
    assert!(invite.starts_with(&format!("INVITE sip:{NUMBER}@{QUEUE} SIP/2.0\r\n")), "{invite}");
    for (name, _, written) in awkward::VALUES {
        assert!(invite.contains(&format!("\r\nX-GA-tv-{name}: {written}\r\n")), "{name}: {invite}");
    }
    assert!(invite.contains("\r\nX-GA-transfer: AGENT\r\n"), "{invite}");
    assert!(invite.contains(";encoding=hex\r\n"), "{invite}");
    let kept = |line: &&str| ["Via:", "From:", "To:", "Call-ID:", "CSeq:"].iter().any(|name| line.starts_with(name));
    let kept: String = invite.lines().filter(kept).map(|line| format!("{line}\r\n")).collect();
    let kept = kept.replace("\r\nCall-ID", ";tag=queue\r\nCall-ID");
    queue.send_to(format!("SIP/2.0 486 Busy Here\r\n{kept}Content-Length: 0\r\n\r\n").as_bytes(), pjsip).await.unwrap();

    let record = world.records(1).await.remove(0);
    let rungs = &record["hand_back"]["rungs"];
    assert_eq!((&rungs[0]["result"], &rungs[1]["rung"]), (&"refused 486".into(), &"bye".into()), "{record}");
    world.close().await;
}

/// What arrives at two places is what the other one says.
pub async fn both_hear(one: (&Place, Tone), other: (&Place, Tone)) {
    tokio::time::sleep(SETTLING).await;
    let (here, there) = (Door::open(one.0), Door::open(other.0));
    let (here, there) = tokio::join!(here.hears(LISTENING), there.hears(LISTENING));
    for ((place, tone), samples) in [(one, here), (other, there)] {
        is_heard(&format!("the door of {}", place.ip), tone, &samples, 0);
    }
}
