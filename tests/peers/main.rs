//! H1, H5, M6: the built program between SIP stacks that others wrote: baresip and pjsua2 as the customer and as
//! GenerativeAgent, Kamailio in front and behind, SIPp as either. Each test has network namespaces of its own, for which
//! one must be root.
//!
//! - the stage: `world` (namespaces, the program), `phone` (the two telephones), `kamailio`, `tone` (who is heard),
//!   `door` (what arrives), `capture` (what was on the wire), `table` (what was played with whom);
//! - the play: `talk` between two telephones, `echo` between one and SIPp, `handback` between three, and below who
//!   plays it.
#![allow(clippy::unwrap_used, reason = "the harness is part of the tests")]

#[path = "../streams/authority.rs"]
mod authority;
#[path = "../live/awkward.rs"]
mod awkward;
mod capture;
mod door;
mod echo;
mod handback;
mod kamailio;
mod phone;
mod recipe;
#[allow(dead_code, reason = "shared with the live suite")]
#[path = "../live/sipp.rs"]
mod sipp;
mod srtp;
#[allow(dead_code, reason = "shared with the live suite")]
#[path = "../live/stage.rs"]
mod stage;
mod table;
mod talk;
mod tone;
#[path = "../live/tshark.rs"]
mod tshark;
mod world;

use echo::{sipp_answers, sipp_calls};
use phone::Stack::{Baresip, Pjsua};
use talk::play;
use world::Over::{Tcp, Tls, Udp};
use world::Path::{Direct, Proxied};

#[tokio::test]
async fn h1_h5_m6_baresip_calls_pjsua_over_udp() {
    play(Baresip, Pjsua, Udp, Direct).await;
}

#[tokio::test]
async fn h1_h5_m6_baresip_calls_pjsua_over_tcp() {
    play(Baresip, Pjsua, Tcp, Direct).await;
}

#[tokio::test]
async fn h1_h5_m6_baresip_calls_pjsua_over_tls() {
    play(Baresip, Pjsua, Tls, Direct).await;
}

#[tokio::test]
async fn h1_h5_m6_pjsua_calls_baresip_over_udp() {
    play(Pjsua, Baresip, Udp, Direct).await;
}

#[tokio::test]
async fn h1_h5_m6_pjsua_calls_baresip_over_tcp() {
    play(Pjsua, Baresip, Tcp, Direct).await;
}

#[tokio::test]
async fn h1_h5_m6_pjsua_calls_baresip_over_tls() {
    play(Pjsua, Baresip, Tls, Direct).await;
}

#[tokio::test]
async fn h10_baresip_with_srtp_over_tls_calls_pjsua_with_rtp_over_udp() {
    srtp::play(Baresip, Pjsua).await;
}

#[tokio::test]
async fn h10_pjsua_with_srtp_over_tls_calls_baresip_with_rtp_over_udp() {
    srtp::play(Pjsua, Baresip).await;
}

#[tokio::test]
async fn h1_h5_m6_sipp_calls_pjsua_over_udp() {
    sipp_calls(Pjsua, Udp).await;
}

#[tokio::test]
async fn h1_h5_m6_sipp_calls_baresip_over_tcp() {
    sipp_calls(Baresip, Tcp).await;
}

#[tokio::test]
async fn h1_h5_m6_baresip_calls_sipp_over_udp() {
    sipp_answers(Baresip, Udp).await;
}

#[tokio::test]
async fn h1_h5_m6_pjsua_calls_sipp_over_udp() {
    sipp_answers(Pjsua, Udp).await;
}

#[tokio::test]
async fn h1_h5_m6_kamailio_is_in_front_and_behind_over_udp() {
    play(Pjsua, Baresip, Udp, Proxied).await;
}

#[tokio::test]
async fn h1_h5_m6_kamailio_is_in_front_and_behind_over_tcp() {
    play(Baresip, Pjsua, Tcp, Proxied).await;
}

#[tokio::test]
async fn h1_h5_m6_kamailio_is_in_front_and_behind_over_tls() {
    play(Pjsua, Baresip, Tls, Proxied).await;
}

#[tokio::test]
async fn h3_baresip_is_referred_to_the_queue_and_goes() {
    handback::play(Baresip, Pjsua).await;
}

#[tokio::test]
async fn h3_pjsua_is_referred_to_the_queue_and_goes() {
    handback::play(Pjsua, Baresip).await;
}

#[tokio::test]
async fn t12_pjsip_reads_what_we_put_into_refer_to() {
    handback::pjsip_reads_refer_to().await;
}

#[tokio::test]
async fn t2_h3_the_ivr_refers_its_caller_to_us_and_we_refer_him_to_the_queue() {
    handback::redirected().await;
}

#[tokio::test]
async fn h1_the_recipe_for_kamailio_works_as_it_stands() {
    recipe::kamailio().await;
}
