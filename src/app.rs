//! The program put together: the one place that knows every adapter.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use bytes::Bytes;
use rand::Rng as _;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::admin::{self, AdminQuery, Sources, Surroundings};
use crate::asapp::{AsappClient, AsappSettings, FindHost};
use crate::b2bua::B2bua;
use crate::b2bua::io::Change;
use crate::b2bua::io::Question as DnsQuestion;
use crate::b2bua::io::{
    Advice, ApiReply, ApiRequest, Input, Inquiry, Look, MediaCommand, OperatorCommand, PAIRS_A_CALL, PublishedContext,
    Records as DnsRecords, Sound, Transport,
};
use crate::call::ConversationId;
use crate::call::record::CallRecord;
use crate::clock;
use crate::config::{ClientAuth, Config, Destination, Keep, Listener, Sip, Source as Written};
use crate::driver::resolve::Resolver;
use crate::driver::stream::{Limits, Streams};
use crate::driver::tls::{self, Tls};
use crate::driver::{self, Arrivals, Hands, Question, tcp, udp::Udp};
use crate::media::recorder::{RecorderGauges, RecorderSettings};
use crate::media::sounds::{Sounds, Source};
use crate::media::{KernelLosses, Media, MediaSettings, Terms};
use crate::store::contexts::Contexts;
use crate::store::conversations::{self, Conversations};
use crate::store::records::{self, Records, Target, Writer};
use crate::telemetry;
use crate::webhooks::{Webhook, Webhooks};

/// Conversations that one look at the admin port shows.
const MOST_CONVERSATIONS: usize = 1_000;

/// Sees every SIP message and every API exchange as it passes; for captures and ladders.
pub trait Witness: Send {
    /// A SIP message, in or out.
    fn sip(&mut self, at: Instant, from: SocketAddr, to: SocketAddr, bytes: &Bytes);
    /// A request to ASAPP.
    fn asked(&mut self, at: Instant, request: &ApiRequest);
    /// Its answer.
    fn answered(&mut self, at: Instant, reply: &ApiReply);
    /// A finished call.
    fn record(&mut self, record: &CallRecord);
}

/// The running program.
#[derive(Debug)]
pub struct App {
    /// Where SIP over UDP is heard.
    pub sip: Vec<SocketAddr>,
    /// Where HTTP is heard.
    pub admin: SocketAddr,
    operators: mpsc::UnboundedSender<OperatorCommand>,
    driver: JoinHandle<()>,
    server: JoinHandle<io::Result<()>>,
    records: Records,
    writer: Writer,
    conversations: Option<conversations::Writer>,
    tls: Option<Tls>,
}

impl App {
    /// Binds everything and starts. Errors name what could not be had.
    pub async fn start(config: &Config, witness: Option<Box<dyn Witness>>) -> Result<Self> {
        let udp = udp(config)?;
        let tls = tls(config)?;
        let streams = streams(config, tls.clone())?;
        let listener = TcpListener::bind(config.admin.listen)
            .await
            .with_context(|| format!("cannot listen for HTTP on {} (admin.listen)", config.admin.listen))?;
        let (media_events, media_arrivals) = mpsc::unbounded_channel();
        let media = Media::start(media_settings(config)?, media_events)?;
        let (records, writer) = records::start(target(&config.records.path), records::CAPACITY)
            .context("cannot open the file for call records (records.path)")?;
        let contexts = Arc::new(Contexts::default());

        let mut core = B2bua::new(config.core_settings(), media.pairs(), seed(), clock::epoch());
        let (conversations, conversations_writer) = conversations(config, &mut core)?.unzip();
        let (replies, api) = mpsc::unbounded_channel();
        let (advised, advice) = mpsc::unbounded_channel();
        let (looked, looks) = mpsc::unbounded_channel();
        let (operators, operator_arrivals) = mpsc::unbounded_channel();
        let (questions, question_arrivals) = mpsc::channel(64);
        let arrivals = Arrivals {
            api,
            advice,
            looks,
            media: media_arrivals,
            operators: operator_arrivals,
            questions: question_arrivals,
        };
        let (sip, admin) = (udp.addresses(), listener.local_addr()?);
        let stores = Stores {
            contexts: contexts.clone(),
            records: records.clone(),
            conversations: conversations.clone(),
            recordings: media.recordings(),
            kernel_losses: media.kernel_losses(),
        };
        let server = serve_admin(config, listener, questions, stores);
        let resolver = Resolver::new(&config.dns.servers);
        let mut hands = World {
            client: client(config, &resolver)?,
            replies,
            webhooks: webhooks(config)?,
            advised,
            resolver,
            looked,
            media,
            contexts,
            conversations,
            records: records.clone(),
            witness: witness.map(shared),
        };
        let driver = tokio::spawn(async move { driver::drive(core, udp, streams, arrivals, &mut hands).await });
        Ok(Self { sip, admin, operators, driver, server, records, writer, conversations: conversations_writer, tls })
    }

    /// Passes a wish on.
    pub fn operate(&self, command: OperatorCommand) {
        let _ = self.operators.send(command);
    }

    /// Opens the record file again, after a log rotation.
    pub fn reopen_records(&self) {
        self.records.reopen();
    }

    /// Reads certificates and keys again. Connections that are there keep theirs.
    pub fn reload_certificates(&self) {
        match self.tls.as_ref().map(Tls::reload) {
            Some(Ok(())) => tracing::info!("certificates read again"),
            Some(Err(error)) => tracing::warn!(%error, "certificates stay as they were"),
            None => {}
        }
    }

    /// Waits, once, until the core has closed; an error when it has not closed in order.
    pub async fn closed(&mut self) -> Result<()> {
        (&mut self.driver).await.context("the core has failed, and every call with it")
    }

    /// Lets go of everything once the core has closed; records and conversations are on disk when this returns.
    pub fn finish(self) {
        self.server.abort();
        self.writer.finish();
        self.conversations.map(conversations::Writer::finish);
    }
}

/// TLS, where it is spoken on either side.
fn tls(config: &Config) -> Result<Option<Tls>> {
    let sip = &config.sip;
    if sip.tls_listen.is_empty() {
        return Ok(None);
    }
    let files = tls::Files {
        certificate: sip.tls_certificate.clone(),
        key: sip.tls_key.clone(),
        ca: sip.tls_ca.clone(),
        client_auth: match sip.tls_client_auth {
            ClientAuth::None => tls::ClientAuth::None,
            ClientAuth::Optional => tls::ClientAuth::Optional,
            ClientAuth::Required => tls::ClientAuth::Required,
        },
    };
    Tls::load(files).map(Some).context("TLS cannot be spoken (sip.tls_certificate, sip.tls_key, sip.tls_ca)")
}

/// RFC 5626 section 4.4.1: a pong comes within this time.
const PONG_LIMIT: Duration = Duration::from_secs(10);

/// Every listener for streams, open.
fn streams(config: &Config, tls: Option<Tls>) -> Result<Streams> {
    let sip = &config.sip;
    let mut streams = Streams::new(Limits {
        connections: sip.max_connections,
        per_source: sip.max_connections_per_source,
        idle: sip.connection_idle,
        keepalive: sip.keepalive,
        pong: PONG_LIMIT.min(sip.message_time),
        message_time: sip.message_time,
        connect: sip.connect_timeout,
        ..Limits::default()
    });
    if let Some(tls) = tls {
        streams = streams.with_tls(tls);
    }
    for Listener { transport, here, .. } in config.listeners() {
        if transport.is_reliable() {
            let listener = tcp::listen(here).with_context(|| unheard(transport, here))?;
            streams.listen(transport, listener)?;
        }
    }
    Ok(streams)
}

/// Every UDP socket, bound.
fn udp(config: &Config) -> Result<Udp> {
    let mut udp = Udp::default();
    for here in &config.sip.listen {
        udp.bind(*here).with_context(|| unheard(Transport::Udp, *here))?;
    }
    Ok(udp)
}

fn unheard(transport: Transport, here: SocketAddr) -> String {
    format!("cannot listen for SIP on {} {here} ({})", transport.as_str(), Sip::key(transport))
}

fn seed() -> [u8; 32] {
    let mut seed = [0; 32];
    rand::rng().fill_bytes(&mut seed);
    seed
}

/// Named DNS servers answer for the API's host, too; without them the system's resolver knows more than the DNS.
///
/// There is none where the API is not asked.
fn client(config: &Config, resolver: &Resolver) -> Result<Option<AsappClient>> {
    let asapp = &config.asapp;
    if !asapp.way_in().asks_api() {
        return Ok(None);
    }
    let returner = config.user.get(&asapp.return_user).map(|user| user.password.clone());
    let settings = AsappSettings {
        returner: returner.map(|password| (asapp.return_user.clone(), password)),
        allow_http: asapp.allow_http,
        connect_timeout: asapp.connect_timeout,
        ..AsappSettings::new(asapp.base_url.clone(), asapp.api_id.clone(), asapp.api_secret.clone())
    };
    Ok(Some(match config.dns.servers.is_empty() {
        true => AsappClient::new(settings)?,
        false => AsappClient::finding(settings, find_host(resolver.clone()))?,
    }))
}

fn find_host(resolver: Resolver) -> FindHost {
    Arc::new(move |host| {
        let resolver = resolver.clone();
        Box::pin(async move {
            match resolver.look(DnsQuestion::Addresses(host)).await.answer {
                Ok((DnsRecords::Addresses(found), _)) => Ok(found.into_iter().map(|ip| (ip, 0).into()).collect()),
                Ok(_) => Ok(Vec::new()),
                Err(error) => Err(io::Error::other(error)),
            }
        })
    })
}

fn webhooks(config: &Config) -> Result<Webhooks> {
    let hooks = config
        .webhook
        .iter()
        .map(|(name, row)| (name.clone(), Webhook { url: row.url.clone(), secret: row.secret.clone() }));
    Webhooks::new(hooks).map_err(anyhow::Error::msg)
}

/// Loads every sound. An error has a line for each that cannot be had, with its key and the fix.
pub fn sounds(config: &Config) -> Result<Sounds> {
    let named = |sound| {
        let sounds = &config.sounds;
        match sound {
            Sound::Ringback => ("sounds.ringback", Some(&sounds.ringback)),
            Sound::Waiting => ("sounds.waiting", Some(&sounds.waiting)),
            Sound::Onward => ("sounds.onward", Some(&sounds.onward)),
            Sound::Hold => ("sounds.hold", Some(&sounds.hold)),
            Sound::Announcement => ("sounds.announcement", sounds.announcement.as_ref()),
        }
    };
    let source = |sound| match named(sound).1.cloned() {
        None | Some(Written::Silence) => Source::Silence,
        Some(Written::ComfortNoise) => Source::ComfortNoise,
        Some(Written::Tone(country)) => Source::Tone(country),
        Some(Written::File(path)) => Source::File(path),
    };
    Sounds::load(source, config.sounds.max_length).map_err(|errors| {
        let lines = errors.iter().map(|(sound, error)| format!("{}: {error}", named(*sound).0));
        anyhow!(lines.collect::<Vec<_>>().join("\n"))
    })
}

/// Another relay thread is worth having for so many calls.
const CALLS_A_THREAD: usize = 100;

fn media_settings(config: &Config) -> Result<MediaSettings> {
    let (media, own) = (&config.media, MediaSettings::default());
    let busy = media.ports.pairs().div_ceil(PAIRS_A_CALL * CALLS_A_THREAD);
    Ok(MediaSettings {
        addresses: media.address.clone(),
        told: media.advertise.clone(),
        closed: config.listeners().iter().map(|listener| listener.here).chain([config.admin.listen]).collect(),
        first_port: media.ports.first,
        last_port: media.ports.last,
        workers: if media.workers == 0 { own.workers.min(busy) } else { media.workers.into() },
        terms: Terms { quarantine: media.quarantine, ..own.terms },
        dscp: Some(media.dscp),
        sounds: Arc::new(sounds(config)?),
        recorder: config.recording.folder().map(|folder| RecorderSettings {
            folder: folder.to_path_buf(),
            max_bytes: config.recording.max_megabytes * 1_000_000,
            beep: config.recording.beep,
        }),
    })
}

fn target(destination: &Destination) -> Target {
    match destination {
        Destination::File(path) => Target::File(path.clone()),
        Destination::Stdout => Target::Stdout,
        Destination::Nowhere => Target::Nowhere,
    }
}

/// Tells the core what an earlier run wrote down, where that is kept at all.
fn conversations(config: &Config, core: &mut B2bua) -> Result<Option<(Conversations, conversations::Writer)>> {
    let Keep::File(path) = &config.conversations.path else { return Ok(None) };
    let mut store = conversations::open(path).context("conversations cannot be kept (conversations.path)")?;
    let changes = core.recall(clock::now(), store.take());
    let started = store.start(changes, conversations::CAPACITY).context("cannot start a thread for conversations")?;
    Ok(Some(started))
}

/// What the admin server looks into besides the core.
#[derive(Clone)]
struct Stores {
    contexts: Arc<Contexts>,
    records: Records,
    conversations: Option<Conversations>,
    recordings: Option<RecorderGauges>,
    kernel_losses: Arc<KernelLosses>,
}

impl Stores {
    fn look_around(&self) -> Surroundings {
        let records = self.records.status();
        let conversations = self.conversations.as_ref().map(Conversations::status).unwrap_or_default();
        let recordings = self.recordings.as_ref().map(RecorderGauges::status).unwrap_or_default();
        Surroundings {
            records_written: records.written,
            records_lost: records.lost,
            records_failing: records.failing,
            conversations_written: conversations.written,
            conversations_groups: conversations.groups,
            conversations_lost: conversations.lost,
            conversations_failing: conversations.failing,
            recordings_active: recordings.active,
            recordings_bytes: recordings.bytes,
            recordings_frames_lost: recordings.lost,
            recordings_failing: recordings.failing,
            media_kernel_drops: self.kernel_losses.dropped.load(Ordering::Relaxed),
            udp_refused: self.kernel_losses.refused.load(Ordering::Relaxed),
            log_lines_dropped: telemetry::dropped_lines(),
        }
    }

    fn erase(&self, conversation: &ConversationId, told: oneshot::Sender<bool>) -> usize {
        // Whoever asked may have gone.
        let told: conversations::Told = Box::new(move |erased| {
            let _ = told.send(erased);
        });
        match &self.conversations {
            Some(conversations) => conversations.erase(conversation.clone(), told),
            None => told(true),
        }
        self.contexts.erase(clock::now(), conversation)
    }
}

/// The admin server asks the core between two inputs, through questions.
fn serve_admin(
    config: &Config,
    listener: TcpListener,
    questions: mpsc::Sender<Question>,
    stores: Stores,
) -> JoinHandle<io::Result<()>> {
    use secrecy::ExposeSecret as _;
    let (core, mut queries) = mpsc::channel(64);
    tokio::spawn(async move {
        while let Some(query) = queries.recv().await {
            if questions.send(question(query)).await.is_err() {
                return;
            }
        }
    });
    let token = Some(config.admin.token.clone()).filter(|token| !token.expose_secret().is_empty());
    let [found, called, listed] = [(); 3].map(|()| stores.contexts.clone());
    let around = stores.clone();
    let sources = Sources {
        core,
        context: Arc::new(move |reference| found.fetch(clock::now(), reference)),
        context_of_call: Arc::new(move |call_id| called.of_call(clock::now(), call_id)),
        contexts_of: Arc::new(move |conversation| listed.of(clock::now(), conversation)),
        surroundings: Arc::new(move || around.look_around()),
        erase: Arc::new(move |conversation, told| stores.erase(conversation, told)),
        token,
    };
    tokio::spawn(admin::serve(listener, sources))
}

fn question(query: AdminQuery) -> Question {
    Box::new(move |core, now| match query {
        AdminQuery::Snapshot(answer) => drop(answer.send(core.counters(now))),
        AdminQuery::Calls(answer) => drop(answer.send(core.live_calls(now))),
        AdminQuery::PullBack(call, answer) => {
            let _ = answer.send(core.has_call(call));
            core.handle_input(now, Input::Operator(OperatorCommand::PullBack(call)));
        }
        AdminQuery::HangUp(call, answer) => {
            let _ = answer.send(core.has_call(call));
            core.handle_input(now, Input::Operator(OperatorCommand::HangUp(call)));
        }
        AdminQuery::Record(call, on, answer) => {
            let _ = answer.send(core.may_record(call));
            core.handle_input(now, Input::Operator(OperatorCommand::Record(call, on)));
        }
        AdminQuery::Conversations(caller, answer) => {
            drop(answer.send(core.conversations(now, caller.as_deref(), MOST_CONVERSATIONS)));
        }
        AdminQuery::Conversation(id, answer) => drop(answer.send(core.conversation(now, &id))),
        AdminQuery::Erase(id, answer) => drop(answer.send(core.erase(now, &id))),
        AdminQuery::LayDown(id, input, answer) => drop(answer.send(core.lay_down(now, id, input))),
    })
}

type SharedWitness = Arc<std::sync::Mutex<Box<dyn Witness>>>;

fn shared(witness: Box<dyn Witness>) -> SharedWitness {
    Arc::new(std::sync::Mutex::new(witness))
}

/// The hands of the core.
struct World {
    client: Option<AsappClient>,
    replies: mpsc::UnboundedSender<ApiReply>,
    webhooks: Webhooks,
    advised: mpsc::UnboundedSender<Advice>,
    resolver: Resolver,
    looked: mpsc::UnboundedSender<Look>,
    media: Media,
    contexts: Arc<Contexts>,
    conversations: Option<Conversations>,
    records: Records,
    witness: Option<SharedWitness>,
}

impl World {
    fn witnessed(&self, see: impl FnOnce(&mut dyn Witness)) {
        if let Some(Ok(mut witness)) = self.witness.as_ref().map(|witness| witness.lock()) {
            see(witness.as_mut());
        }
    }
}

impl Hands for World {
    fn ask_asapp(&mut self, request: ApiRequest) {
        self.witnessed(|witness| witness.asked(clock::now(), &request));
        debug_assert!(self.client.is_some(), "the API is asked where there is none: {request:?}");
        let Some(client) = self.client.clone() else { return };
        let (replies, witness) = (self.replies.clone(), self.witness.clone());
        tokio::spawn(async move {
            let reply = client.perform(request).await;
            if let Some(Ok(mut witness)) = witness.as_ref().map(|witness| witness.lock()) {
                witness.answered(clock::now(), &reply);
            }
            let _ = replies.send(reply);
        });
    }

    fn consult(&mut self, inquiry: Inquiry) {
        let (webhooks, advised) = (self.webhooks.clone(), self.advised.clone());
        tokio::spawn(async move { advised.send(webhooks.ask(inquiry).await) });
    }

    fn look(&mut self, question: DnsQuestion) {
        let (resolver, looked) = (self.resolver.clone(), self.looked.clone());
        tokio::spawn(async move { looked.send(resolver.look(question).await) });
    }

    fn tell_media(&mut self, command: MediaCommand) {
        self.media.command(command);
    }

    fn publish(&mut self, context: PublishedContext) {
        self.contexts.put(clock::now(), context);
    }

    fn remember(&mut self, change: Change) {
        if let Some(conversations) = &self.conversations {
            conversations.write(change);
        }
    }

    fn record(&mut self, record: Box<CallRecord>) {
        self.witnessed(|witness| witness.record(&record));
        self.records.write(record);
    }

    fn looks(&self) -> bool {
        self.witness.is_some()
    }

    fn seen(&mut self, at: Instant, from: SocketAddr, to: SocketAddr, bytes: &Bytes) {
        self.witnessed(|witness| witness.sip(at, from, to, bytes));
    }
}
