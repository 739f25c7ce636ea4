//! The demo's stage: the real program between a mock IVR, a mock GenerativeAgent and a mock ASAPP API, on loopback.
//!
//! One [`Scenario`] is one call. Its ladder is drawn while it happens; a stereo recording, a capture and the call's
//! record stay in a folder.

use std::fs::{self, File};
use std::io::{self, BufWriter, IsTerminal as _};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;

use crate::app::{App, Witness};
use crate::b2bua::io::{ApiOperation, ApiReply, ApiRequest, OperatorCommand, TransferStatus};
use crate::call::record::CallRecord;
use crate::clock;
use crate::config::Config;
use crate::demo::asapp::{Behaviour, Fault, Manners, MockAsapp, MockAsappSettings};
use crate::demo::genagent::{self, MockGenAgent, Script};
use crate::demo::hooks::{Hooks, News};
use crate::demo::ivr::{self, CallReport, MockIvr};
use crate::demo::ladder::{self, Column, Step};
use crate::demo::pcap::Capture;
use crate::demo::rtp::Recording;
use crate::demo::tap::{Seen, Tap, Traffic};
use crate::demo::voice;
use crate::demo::wav::{Track, write_stereo};

/// A story to play.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// GenerativeAgent talks, then asks for a human.
    Agent,
    /// GenerativeAgent talks, then hands the solved call back.
    System,
    /// The customer hangs up.
    CustomerHangup,
    /// Nobody answers before the number expires, twice.
    Expired,
    /// ASAPP's API answers nothing but 500.
    ApiDown,
    /// The trunk refuses with 503.
    Trunk503,
}

/// What must come of it: the verdict's outcome and the status the IVR sees.
struct Expected {
    outcome: &'static str,
    status: u16,
    voices: bool,
}

impl Scenario {
    /// Every story, by the name it is asked for.
    pub const ALL: [(&'static str, Self); 6] = [
        ("agent", Self::Agent),
        ("system", Self::System),
        ("customer-hangup", Self::CustomerHangup),
        ("expired", Self::Expired),
        ("api-down", Self::ApiDown),
        ("trunk-503", Self::Trunk503),
    ];

    fn expected(self) -> Expected {
        match self {
            Self::Agent => Expected { outcome: "agent", status: 200, voices: true },
            Self::System => Expected { outcome: "system", status: 200, voices: true },
            Self::CustomerHangup => Expected { outcome: "customer_hung_up", status: 200, voices: true },
            Self::Expired | Self::ApiDown | Self::Trunk503 => {
                Expected { outcome: "not_connected", status: 480, voices: false }
            }
        }
    }

    fn script(self) -> Script {
        match self {
            Self::Agent | Self::ApiDown => Script::Agent,
            Self::System => Script::System,
            Self::CustomerHangup => Script::WaitForCustomer,
            Self::Expired => Script::RingForever,
            Self::Trunk503 => Script::Busy(503),
        }
    }

    fn api(self) -> MockAsappSettings {
        let down = Manners { fault: Some(Fault::Status { code: 500, retry_after: None }), ..Manners::default() };
        let create = if self == Self::ApiDown { down } else { Manners::default() };
        // A number that is safe to dial for two seconds: five of its seven are the margin.
        let life = if self == Self::Expired { Duration::from_secs(7) } else { Duration::from_secs(60) };
        MockAsappSettings {
            life,
            behaviour: Behaviour { create, ..Behaviour::default() },
            ..MockAsappSettings::default()
        }
    }
}

/// How long both sides talk.
const TALK: Duration = Duration::from_secs(6);
/// No story takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Plays a story; what it leaves behind goes into `folder`. Fails when the story did not end as it must.
pub async fn play(scenario: Scenario, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let scene = Arc::new(Mutex::new(Scene::new(folder)?));
    let tap = rtp_tap(&scene);

    let api = MockAsapp::start(scenario.api()).await?;
    let mind = api.handle();
    let hooks = Hooks::Closure(Arc::new(move |news| match news {
        News::Received { number } => mind.call_received(&number).map(|transfer| transfer.id),
        News::Completed { number, transfer, output } => {
            mind.completed(transfer.as_deref().unwrap_or(&number), output);
            None
        }
    }));
    let agent_settings = genagent::Settings {
        bind: local(),
        ring: Duration::from_millis(400),
        talk: TALK,
        script: scenario.script(),
        early_media: false,
        tap: tap.clone(),
    };
    let agent = MockGenAgent::start(agent_settings, hooks).await?;
    let config = Config::parse(&configuration(&api, agent.address(), folder)?)?;
    let mut app = App::start(&config, Some(Box::new(Stalls(scene.clone())))).await?;
    let sip = config.sip.listen[0];
    locked(&scene).open(sip, agent.address());

    let call = MockIvr::call(ivr::Settings {
        bind: local(),
        target: sip,
        user: "7000".to_owned(),
        caller: "+15550100042".to_owned(),
        headers: [("X-GA-extConversationId", "demo-1"), ("X-GA-taskName", "OrderStatus"), ("X-GA-iv-name", "Ada")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec(),
        speak: true,
        hang_up_after: (scenario == Scenario::CustomerHangup).then_some(TALK),
        cancel_after: None,
        tap,
    });
    let report = tokio::time::timeout(PATIENCE, call).await.context("the story did not end")??;

    app.operate(OperatorCommand::Drain);
    tokio::time::timeout(PATIENCE, app.closed()).await.context("the program did not close")??;
    app.finish();
    let heard = agent.calls().pop().map(|call| call.heard).unwrap_or_default();
    conclude(scenario, folder, &mut locked(&scene), &report, &heard)
}

fn local() -> SocketAddr {
    (std::net::Ipv4Addr::LOCALHOST, 0).into()
}

fn configuration(api: &MockAsapp, trunk: SocketAddr, folder: &Path) -> Result<String> {
    let (sip, admin) = (UdpSocket::bind(local())?.local_addr()?, TcpListener::bind(local())?.local_addr()?);
    Ok(format!(
        "[sip]\nlisten = '{sip}'\naccess = ['127.0.0.0/8']\n\
         [media]\naddress = '127.0.0.1'\nports = '28000-28099'\nquarantine = '100ms'\n\
         [trunk.main]\naddress = '{trunk}'\ncaller_id = '+15550100000'\n\
         [asapp]\nbase_url = '{}'\nallow_http = true\napi_id = 'mock-id'\napi_secret = 'mock-secret'\n\
         [context]\nreference_variables = ['sentiment']\n\
         [records]\npath = '{}'\n[admin]\nlisten = '{admin}'\n",
        api.base_url(),
        folder.join("records.jsonl").display(),
    ))
}

/// Writes what stays, says what it is, and holds the story against what must come of it.
fn conclude(
    scenario: Scenario,
    folder: &Path,
    scene: &mut Scene,
    report: &CallReport,
    heard_by_agent: &Recording,
) -> Result<()> {
    let expected = scenario.expected();
    fs::write(folder.join("ladder.txt"), scene.drawn.join("\n") + "\n")?;
    let begin = [heard_by_agent.started, report.heard.started].into_iter().flatten().min();
    if let Some(begin) = begin {
        let track = |recording: &'_ Recording| recording.started.unwrap_or(begin).saturating_duration_since(begin);
        let left = Track { starts: track(heard_by_agent), samples: &heard_by_agent.samples };
        let right = Track { starts: track(&report.heard), samples: &report.heard.samples };
        write_stereo(BufWriter::new(File::create(folder.join("call.wav"))?), left, right)?;
    }
    let capture = scene.capture.take().context("call.pcap could not be written")?;
    io::Write::flush(&mut capture.into_inner())?;
    println!();
    for (name, value) in &report.bye_headers {
        if name == "Reason" || name.starts_with("X-") {
            println!("  the IVR got back   {name}: {value}");
        }
    }
    let record = scene.record.take().context("the call left no record")?;
    println!("  verdict            {} (ended by {:?})", record.verdict.outcome, record.verdict.ended_by);
    let recording = if begin.is_some() { ", call.wav" } else { "" };
    println!("  left in            {}: ladder.txt, call.pcap, records.jsonl{recording}", folder.display());
    ensure!(report.complaints.is_empty(), "the second SIP reader could not read: {:?}", report.complaints);
    ensure!(report.status == expected.status, "the IVR saw {}, not {}", report.status, expected.status);
    let outcome = record.verdict.outcome.as_str();
    ensure!(outcome == expected.outcome, "the verdict is {outcome}, not {}", expected.outcome);
    if expected.voices {
        ensure!(voice::speaks(&heard_by_agent.samples), "GenerativeAgent did not hear the customer");
        ensure!(voice::speaks(&report.heard.samples), "the customer did not hear GenerativeAgent");
    }
    Ok(())
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What has been seen so far.
struct Scene {
    began: Instant,
    switchback: Option<SocketAddr>,
    genagent: Option<SocketAddr>,
    capture: Option<Capture<BufWriter<File>>>,
    drawn: Vec<String>,
    record: Option<CallRecord>,
    epoch: crate::b2bua::io::Epoch,
}

impl Scene {
    fn new(folder: &Path) -> Result<Self> {
        Ok(Self {
            began: clock::now(),
            switchback: None,
            genagent: None,
            capture: Some(Capture::new(BufWriter::new(File::create(folder.join("call.pcap"))?))?),
            drawn: Vec::new(),
            record: None,
            epoch: clock::epoch(),
        })
    }

    fn open(&mut self, switchback: SocketAddr, genagent: SocketAddr) {
        self.switchback = Some(switchback);
        self.genagent = Some(genagent);
        self.began = clock::now();
        let header = ladder::header();
        println!("{header}");
        self.drawn.push(header);
    }

    fn column(&self, address: SocketAddr) -> Column {
        match address {
            address if Some(address) == self.switchback => Column::Switchback,
            address if Some(address) == self.genagent => Column::GenAgent,
            _ => Column::Customer,
        }
    }

    fn draw(&mut self, at: Instant, from: Column, to: Column, label: String) {
        let step = Step { at: at.saturating_duration_since(self.began), from, to, label };
        println!("{}", if io::stdout().is_terminal() { ladder::coloured(&step) } else { ladder::line(&step) });
        self.drawn.push(ladder::line(&step));
    }

    fn capture(&mut self, at: Instant, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let since_epoch = Duration::from_millis(self.epoch.unix_ms(at).unsigned_abs());
        let written = self.capture.as_mut().map(|capture| capture.write(since_epoch, from, to, bytes));
        // A capture that cannot be written ends; the call goes on.
        if let Some(Err(_)) = written {
            self.capture = None;
        }
    }
}

/// The program's own view of the story.
struct Stalls(Arc<Mutex<Scene>>);

impl Witness for Stalls {
    fn sip(&mut self, at: Instant, from: SocketAddr, to: SocketAddr, bytes: &Bytes) {
        let mut scene = locked(&self.0);
        scene.capture(at, from, to, bytes);
        if let Some(label) = ladder::label(bytes) {
            let (from, to) = (scene.column(from), scene.column(to));
            scene.draw(at, from, to, label);
        }
    }

    fn asked(&mut self, at: Instant, request: &ApiRequest) {
        let label = match &request.operation {
            ApiOperation::Create(_) => "POST call-transfers".to_owned(),
            ApiOperation::Fetch => "GET call-transfers".to_owned(),
        };
        locked(&self.0).draw(at, Column::Switchback, Column::Asapp, label);
    }

    fn answered(&mut self, at: Instant, reply: &ApiReply) {
        let label = match &reply.answer {
            Ok(transfer) if reply.created => {
                format!("200 {}", ladder::masked(transfer.number.as_deref().unwrap_or("?")))
            }
            Ok(transfer) => {
                let status = transfer.status.as_ref().map_or("200", TransferStatus::as_str);
                let kind = transfer.output.as_ref().and_then(|output| output.transfer_type.as_deref());
                format!("{status} {}", kind.unwrap_or(""))
            }
            Err(failure) => failure.status.map_or_else(|| failure.detail.clone(), |status| status.to_string()),
        };
        locked(&self.0).draw(at, Column::Asapp, Column::Switchback, label.trim_end().to_owned());
    }

    fn record(&mut self, record: &CallRecord) {
        locked(&self.0).record = Some(record.clone());
    }
}

/// RTP as the mock parties see it; SIP is captured by the program itself.
fn rtp_tap(scene: &Arc<Mutex<Scene>>) -> Tap {
    let scene = scene.clone();
    Tap::new(move |seen: Seen| {
        if matches!(seen.traffic, Traffic::Rtp) {
            locked(&scene).capture(seen.at, seen.from, seen.to, &seen.bytes);
        }
    })
}
