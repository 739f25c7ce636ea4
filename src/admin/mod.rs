//! The HTTP side door: health, metrics, live calls, contexts, conversations. It decides nothing; it asks.
//!
//! It runs on a listener of its own, and every connection has a deadline, so that a slow or silent client costs one of
//! [`MAX_CONNECTIONS`] places for at most [`REQUEST_LIMIT`], and after an answer for [`CONNECTION_LIFE`].

mod listener;
mod metrics;
mod routes;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use crate::b2bua::counters::Counters;
use crate::b2bua::io::{Erasure, Kept, LaidDown, LiveCall, PublishedContext, Remembered};
use crate::call::{CallRef, ConversationId};

/// Connections at once; more wait in the kernel's queue.
pub const MAX_CONNECTIONS: usize = 64;
/// A connection that has not asked anything by then is over: a request has its time, however slowly it drips.
pub const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// One that has been answered is over so much later, whatever it is doing.
pub const CONNECTION_LIFE: Duration = Duration::from_secs(30);
/// How long the core may take to answer.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// What the core is asked. Dropping the sender of the answer is an answer too: 503.
#[derive(Debug)]
pub enum AdminQuery {
    /// The counters as they are now.
    Snapshot(oneshot::Sender<Counters>),
    /// Every live call.
    Calls(oneshot::Sender<Vec<LiveCall>>),
    /// Take this call's customer back from GenerativeAgent; true when the call exists.
    PullBack(CallRef, oneshot::Sender<bool>),
    /// End every leg of this call; true when it exists.
    HangUp(CallRef, oneshot::Sender<bool>),
    /// Record this call from now on, or no longer; true when it exists, `None` where nothing is recorded.
    Record(CallRef, bool, oneshot::Sender<Option<bool>>),
    /// The conversations that may be resumed, the last one first; only those of this caller, where one is named.
    Conversations(Option<String>, oneshot::Sender<Vec<Remembered>>),
    /// What is kept of this conversation.
    Conversation(ConversationId, oneshot::Sender<Kept>),
    /// Forget this conversation.
    Erase(ConversationId, oneshot::Sender<Erasure>),
    /// Keep this input for the conversation's next call; an error says what is wrong with it.
    LayDown(ConversationId, LaidDown, oneshot::Sender<Result<(), String>>),
}

/// What is known outside the core at the moment of asking.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Call records written.
    pub records_written: u64,
    /// Call records lost.
    pub records_lost: u64,
    /// Whether writing call records fails now.
    pub records_failing: bool,
    /// Changes to remembered conversations that are on disk.
    pub conversations_written: u64,
    /// Groups they were written in.
    pub conversations_groups: u64,
    /// Changes that did not reach the disk.
    pub conversations_lost: u64,
    /// Whether writing them fails now.
    pub conversations_failing: bool,
    /// Recordings that grow now.
    pub recordings_active: u64,
    /// Octets in the folder of recordings.
    pub recordings_bytes: u64,
    /// Packets that found no room on their way into a recording.
    pub recordings_frames_lost: u64,
    /// Whether the folder of recordings is full, or its disk fails.
    pub recordings_failing: bool,
    /// Media packets that the kernel dropped because a queue was full.
    pub media_kernel_drops: u64,
    /// Datagrams of this machine that the kernel refused, because no socket wanted them.
    pub udp_refused: u64,
    /// Log lines dropped.
    pub log_lines_dropped: u64,
}

/// Looks a context up by its reference, or by SIP's Call-ID of its customer leg.
pub type FindContext = Arc<dyn Fn(&str) -> Option<Arc<PublishedContext>> + Send + Sync>;
/// The references of a conversation's contexts.
pub type ContextsOf = Arc<dyn Fn(&ConversationId) -> Vec<String> + Send + Sync>;
/// Erases what is kept of a conversation outside the core: returns how many contexts there were, and tells whether the
/// disk holds nothing of it any more.
pub type Erase = Arc<dyn Fn(&ConversationId, oneshot::Sender<bool>) -> usize + Send + Sync>;
/// Looks around.
pub type LookAround = Arc<dyn Fn() -> Surroundings + Send + Sync>;

/// Whom the side door asks.
#[derive(Clone)]
pub struct Sources {
    /// The core, through its loop.
    pub core: mpsc::Sender<AdminQuery>,
    /// The context store.
    pub context: FindContext,
    /// The context store, by Call-ID.
    pub context_of_call: FindContext,
    /// The context store, by conversation.
    pub contexts_of: ContextsOf,
    /// Every store, for good.
    pub erase: Erase,
    /// Everything else.
    pub surroundings: LookAround,
    /// The bearer token asked for on everything but health, readiness and metrics.
    pub token: Option<SecretString>,
}

/// Serves on this listener until the task is dropped.
pub async fn serve(listener: TcpListener, sources: Sources) -> io::Result<()> {
    let limits = listener::Limits { request: REQUEST_LIMIT, life: CONNECTION_LIFE };
    axum::serve(listener::Guarded::new(listener, MAX_CONNECTIONS, limits), routes::router(sources)).await
}
