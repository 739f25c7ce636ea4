//! `switchback mock`: each party of a call alone.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand, ValueEnum};
use switchback::demo::asapp::{Behaviour, MockAsapp, MockAsappSettings};
use switchback::demo::genagent::{self, MockGenAgent, Script};
use switchback::demo::hooks::Hooks;
use switchback::demo::ivr::{self, MockIvr};
use switchback::demo::tap::Tap;

/// The parties.
#[derive(Debug, Subcommand)]
pub enum Mock {
    /// ASAPP's call-transfer API.
    Asapp(AsappArguments),
    /// The carrier with GenerativeAgent behind it.
    Genagent(GenagentArguments),
    /// The IVR: places one call and prints what came back.
    Ivr(IvrArguments),
}

#[derive(Debug, Args)]
pub struct AsappArguments {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:8090")]
    listen: SocketAddr,
    /// How long a number lives, seconds.
    #[arg(long, default_value_t = 60)]
    life: u64,
    /// How many numbers there are.
    #[arg(long, default_value_t = 10_000)]
    numbers: u16,
    /// Give a released number out again at once.
    #[arg(long)]
    reuse: bool,
    /// A JSON file with its behaviour, as `POST /mock/behaviour` takes it.
    #[arg(long)]
    behaviour: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct GenagentArguments {
    /// Where to listen for SIP.
    #[arg(long, default_value = "127.0.0.1:5070")]
    listen: SocketAddr,
    /// The mock API to keep informed.
    #[arg(long)]
    api: Option<String>,
    /// Seconds of ringing.
    #[arg(long, default_value_t = 1)]
    ring: u64,
    /// Seconds of talking before it hangs up.
    #[arg(long, default_value_t = 10)]
    talk: u64,
    /// What it does with calls.
    #[arg(long, default_value = "agent")]
    script: ScriptName,
    /// Speak before the answer, in a 183.
    #[arg(long)]
    early_media: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ScriptName {
    Agent,
    System,
    WaitForCustomer,
    Busy,
    RingForever,
    Silent,
}

#[derive(Debug, Args)]
pub struct IvrArguments {
    /// Where to call from.
    #[arg(long, default_value = "127.0.0.1:0")]
    bind: SocketAddr,
    /// Switchback's SIP address.
    #[arg(long, default_value = "127.0.0.1:5060")]
    target: SocketAddr,
    /// The dialled user.
    #[arg(long, default_value = "7000")]
    user: String,
    /// Who calls.
    #[arg(long, default_value = "+15550100042")]
    caller: String,
    /// A header line `Name: value`; may be given again.
    #[arg(long = "header")]
    headers: Vec<String>,
    /// Hang up after this many seconds of talking.
    #[arg(long)]
    hang_up_after: Option<u64>,
    /// Cancel after this many seconds of ringing.
    #[arg(long)]
    cancel_after: Option<u64>,
}

/// Plays a party: a server until it is interrupted, the IVR until its call is over.
pub fn play(party: Mock) -> Result<()> {
    let runtime = super::runtime()?;
    match party {
        Mock::Asapp(arguments) => runtime.block_on(asapp(arguments)),
        Mock::Genagent(arguments) => runtime.block_on(genagent(arguments)),
        Mock::Ivr(arguments) => runtime.block_on(ivr(arguments)),
    }
}

async fn asapp(arguments: AsappArguments) -> Result<()> {
    let behaviour: Behaviour = match &arguments.behaviour {
        Some(path) => serde_json::from_slice(&std::fs::read(path)?)
            .with_context(|| format!("{} is no behaviour; see `GET /mock/behaviour`", path.display()))?,
        None => Behaviour::default(),
    };
    let api = MockAsapp::start(MockAsappSettings {
        address: arguments.listen,
        life: Duration::from_secs(arguments.life),
        numbers: arguments.numbers,
        reuse: arguments.reuse,
        behaviour,
        ..MockAsappSettings::default()
    })
    .await?;
    println!("ASAPP's API on {} (asapp-api-id mock-id, asapp-api-secret mock-secret)", api.base_url());
    Ok(tokio::signal::ctrl_c().await?)
}

async fn genagent(arguments: GenagentArguments) -> Result<()> {
    let hooks = match &arguments.api {
        Some(url) if !url.starts_with("http") => anyhow::bail!("--api {url}: write a URL, such as http://{url}"),
        Some(url) => Hooks::http(url)?,
        None => Hooks::Nobody,
    };
    let script = match arguments.script {
        ScriptName::Agent => Script::Agent,
        ScriptName::System => Script::System,
        ScriptName::WaitForCustomer => Script::WaitForCustomer,
        ScriptName::Busy => Script::Busy(486),
        ScriptName::RingForever => Script::RingForever,
        ScriptName::Silent => Script::NoAnswerAtAll,
    };
    let settings = genagent::Settings {
        bind: arguments.listen,
        ring: Duration::from_secs(arguments.ring),
        talk: Duration::from_secs(arguments.talk),
        script,
        early_media: arguments.early_media,
        tap: Tap::default(),
    };
    let agent = MockGenAgent::start(settings, hooks).await?;
    println!("GenerativeAgent on sip:{}", agent.address());
    Ok(tokio::signal::ctrl_c().await?)
}

async fn ivr(arguments: IvrArguments) -> Result<()> {
    let headers: Result<Vec<_>> = arguments
        .headers
        .iter()
        .map(|line| {
            let (name, value) = line.split_once(':').with_context(|| format!("{line:?} is not `Name: value`"))?;
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        })
        .collect();
    let report = MockIvr::call(ivr::Settings {
        bind: arguments.bind,
        target: arguments.target,
        user: arguments.user,
        caller: arguments.caller,
        headers: headers?,
        speak: true,
        hang_up_after: arguments.hang_up_after.map(Duration::from_secs),
        cancel_after: arguments.cancel_after.map(Duration::from_secs),
        tap: Tap::default(),
    })
    .await?;
    println!(
        "final status {}, ended by {:?} after {:.1} s",
        report.status,
        report.ended_by,
        report.length.as_secs_f64()
    );
    for (name, value) in report.final_headers.iter().chain(&report.bye_headers) {
        println!("  {name}: {value}");
    }
    Ok(())
}
