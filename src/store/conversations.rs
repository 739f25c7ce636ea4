//! Resumable conversations on disk: one redb file, written behind the core's back by a thread of its own.
//!
//! Changes are gathered for `GATHER` and committed as one transaction that is on disk when it is done, so a crash loses
//! at most the last group. When the disk fails, the last word about each conversation waits in bounded memory and is
//! tried again each second; calls go on.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use redb::{Builder, Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use crate::b2bua::io::{Change, Remembered};
use crate::call::{CallRef, ConversationId};
use crate::clock;

/// Changes that may wait on the way to the thread, and again in it while the disk fails.
pub const CAPACITY: usize = 10_000;
/// How long changes are gathered into one group …
const GATHER: Duration = Duration::from_millis(2);
/// … and how many at most.
const GROUP: usize = 1_000;
/// Between two tries while the disk fails.
const RETRY: Duration = Duration::from_secs(1);
/// What redb may keep of the file in memory; everything in it is in the core as well.
const CACHE: usize = 4 << 20;

/// The call, its end in milliseconds since the Unix epoch, the caller's number.
type Row = (u128, i64, Option<&'static str>);
/// By conversation id. Whoever changes a row's shape gives the table another name.
const TABLE: TableDefinition<'static, &'static str, Row> = TableDefinition::new("conversations");

/// Why a store cannot be used, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Somebody else has it open.
    #[error("{0} is in use: give each switchback a conversations.path of its own")]
    InUse(PathBuf),
    /// The file holds something else, or was damaged.
    #[error(
        "{0} is damaged or no store of conversations ({1}): move it away and start again; conversations that were \
         to be resumed are forgotten, nothing else is lost"
    )]
    Damaged(PathBuf, String),
    /// The file cannot be read or written.
    #[error("{0} cannot be opened: {1}")]
    Unavailable(PathBuf, io::Error),
}

/// How the writer is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConversationsStatus {
    /// Changes on disk.
    pub written: u64,
    /// Groups they were written in.
    pub groups: u64,
    /// Changes lost: no room to wait, or still unwritten at the end.
    pub lost: u64,
    /// Whether the last write failed, or changes are being lost.
    pub failing: bool,
}

/// The caller's end. Cheap to clone; none of its calls blocks.
#[derive(Debug, Clone)]
pub struct Conversations {
    to_thread: SyncSender<Order>,
    gauges: Arc<Gauges>,
}

/// The thread's end: joined by [`Writer::finish`].
#[derive(Debug)]
pub struct Writer {
    conversations: Conversations,
    thread: JoinHandle<()>,
}

/// Hears whether a change is on disk.
pub type Told = Box<dyn FnOnce(bool) + Send>;

enum Order {
    Write(Change),
    /// Strike it out, leave none of its octets in the file, and say whether that is done.
    Erase(ConversationId, Told),
    Finish,
}

#[derive(Debug, Default)]
struct Gauges {
    written: AtomicU64,
    groups: AtomicU64,
    lost: AtomicU64,
    failing: AtomicBool,
}

/// An open file, and what it holds.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    database: Database,
    remembered: Vec<Remembered>,
}

/// Opens the file, made if it is not there, and reads it.
pub fn open(path: &Path) -> Result<Store, OpenError> {
    let database = open_database(path)?;
    let mut remembered = read(&database).map_err(|error| OpenError::Damaged(path.to_owned(), error.to_string()))?;
    remembered.sort_by_key(|remembered| remembered.ended_at);
    Ok(Store { path: path.to_owned(), database, remembered })
}

impl Store {
    /// What it holds, oldest first.
    pub fn take(&mut self) -> Vec<Remembered> {
        std::mem::take(&mut self.remembered)
    }

    /// Starts the thread; it begins with these changes, however many they are. So many later ones may wait.
    pub fn start(self, changes: Vec<Change>, capacity: usize) -> io::Result<(Conversations, Writer)> {
        let (to_thread, orders) = sync_channel(capacity);
        let gauges = Arc::new(Gauges::default());
        let desk = Desk {
            path: self.path,
            database: Some(self.database),
            gauges: Arc::clone(&gauges),
            waiting: changes.into_iter().map(|change| (change.conversation, change.to)).collect(),
            erasures: Vec::new(),
            capacity,
            retry_at: None,
        };
        let thread = std::thread::Builder::new().name("conversations".to_owned()).spawn(move || desk.serve(&orders))?;
        let conversations = Conversations { to_thread, gauges };
        Ok((conversations.clone(), Writer { conversations, thread }))
    }
}

impl Conversations {
    /// Writes this down in a moment.
    pub fn write(&self, change: Change) {
        self.send(Order::Write(change));
    }

    /// Erases a conversation so that none of it is left in the file; `told` hears whether that was done. It may be
    /// dropped unheard when the thread is gone or too busy.
    pub fn erase(&self, conversation: ConversationId, told: Told) {
        self.send(Order::Erase(conversation, told));
    }

    /// When there is no room the change is lost and counted: calls come first.
    fn send(&self, order: Order) {
        match self.to_thread.try_send(order) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.gauges.lost.fetch_add(1, Ordering::Relaxed);
                if !self.gauges.failing.swap(true, Ordering::Relaxed) {
                    tracing::error!("conversations are not written down: the writer does not keep up");
                }
            }
        }
    }

    /// How the writer is doing.
    pub fn status(&self) -> ConversationsStatus {
        let Gauges { written, groups, lost, failing } = &*self.gauges;
        ConversationsStatus {
            written: written.load(Ordering::Relaxed),
            groups: groups.load(Ordering::Relaxed),
            lost: lost.load(Ordering::Relaxed),
            failing: failing.load(Ordering::Relaxed),
        }
    }
}

impl Writer {
    /// Writes what is still waiting and returns the final status. This blocks: it is the last thing a process does.
    pub fn finish(self) -> ConversationsStatus {
        // The thread ends only by this order or by a panic; in both cases there is nothing more to ask of it.
        let _ = self.conversations.to_thread.send(Order::Finish);
        let _ = self.thread.join();
        self.conversations.status()
    }
}

/// The thread.
struct Desk {
    path: PathBuf,
    /// Closed while the disk fails: redb takes no write after a failed one.
    database: Option<Database>,
    gauges: Arc<Gauges>,
    /// The last word about each conversation that is not on disk yet; `None` strikes it out.
    waiting: HashMap<ConversationId, Option<Box<Remembered>>>,
    /// Who waits for these changes to be on disk, and for the file to hold nothing of what they struck out.
    erasures: Vec<Told>,
    capacity: usize,
    /// Set while the disk fails: until then nothing is tried.
    retry_at: Option<Instant>,
}

impl Desk {
    fn serve(mut self, orders: &Receiver<Order>) {
        self.write();
        let mut finished = false;
        while !finished {
            let first = match self.retry_at {
                None => orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => orders.recv_timeout(at.saturating_duration_since(clock::now())),
            };
            finished = match first {
                Ok(order) => !self.take(order) || self.gather(orders),
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => true,
            };
            if finished || self.retry_at.is_none_or(|at| clock::now() >= at) {
                self.write();
            }
        }
        self.gauges.lost.fetch_add(self.waiting.len() as u64, Ordering::Relaxed);
    }

    /// Takes what else comes within a moment. True when that was the end.
    fn gather(&mut self, orders: &Receiver<Order>) -> bool {
        let until = clock::now() + GATHER;
        for _ in 1..GROUP {
            let last = match orders.recv_timeout(until.saturating_duration_since(clock::now())) {
                Ok(order) => !self.take(order),
                Err(RecvTimeoutError::Disconnected) => true,
                Err(RecvTimeoutError::Timeout) => return false,
            };
            if last {
                return true;
            }
        }
        false
    }

    /// False when it is the last order.
    fn take(&mut self, order: Order) -> bool {
        let (id, word) = match order {
            Order::Write(Change { conversation, to }) => (conversation, to),
            Order::Erase(id, told) => {
                self.erasures.push(told);
                (id, None)
            }
            Order::Finish => return false,
        };
        if self.waiting.len() < self.capacity || self.waiting.contains_key(&id) {
            self.waiting.insert(id, word);
        } else {
            self.gauges.lost.fetch_add(1, Ordering::Relaxed);
        }
        true
    }

    fn write(&mut self) {
        if self.waiting.is_empty() && self.erasures.is_empty() {
            return;
        }
        match self.committed() {
            Ok(()) => self.succeeded(),
            Err(why) => self.failed(&why),
        }
    }

    fn committed(&mut self) -> Result<(), String> {
        let database = match self.database.take() {
            Some(database) => database,
            None => open_database(&self.path).map_err(|error| error.to_string())?,
        };
        commit(&database, &self.waiting).map_err(|error| error.to_string())?;
        let database = match self.erasures.is_empty() {
            true => database,
            false => rewritten(database, &self.path)?,
        };
        self.database = Some(database);
        Ok(())
    }

    fn succeeded(&mut self) {
        self.gauges.written.fetch_add(self.waiting.len() as u64, Ordering::Relaxed);
        self.gauges.groups.fetch_add(1, Ordering::Relaxed);
        self.waiting.clear();
        self.retry_at = None;
        if self.gauges.failing.swap(false, Ordering::Relaxed) {
            let lost = self.gauges.lost.load(Ordering::Relaxed);
            tracing::info!(lost, "conversations are written down again");
        }
        self.erasures.drain(..).for_each(|told| told(true));
    }

    fn failed(&mut self, why: &str) {
        self.database = None;
        self.retry_at = Some(clock::now() + RETRY);
        if !self.gauges.failing.swap(true, Ordering::Relaxed) {
            tracing::error!(why, "conversations cannot be written down; they wait in memory");
        }
        // Whoever is told sees the gauges as they are.
        self.erasures.drain(..).for_each(|told| told(false));
    }
}

fn open_database(path: &Path) -> Result<Database, OpenError> {
    // Made by us and not by redb, because it may hold people's numbers: for nobody else to read.
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| OpenError::Unavailable(path.to_owned(), error))?;
    let opened = Builder::new().set_cache_size(CACHE).set_check_integrity_on_open(true).create(path);
    opened.map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => OpenError::InUse(path.to_owned()),
        DatabaseError::Storage(redb::StorageError::Io(error)) if error.kind() != io::ErrorKind::InvalidData => {
            OpenError::Unavailable(path.to_owned(), error)
        }
        other => OpenError::Damaged(path.to_owned(), other.to_string()),
    })
}

fn read(database: &Database) -> Result<Vec<Remembered>, redb::Error> {
    let reading = database.begin_read()?;
    let table = match reading.open_table(TABLE) {
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        table => table?,
    };
    let mut found = Vec::new();
    for entry in table.iter()? {
        let (id, row) = entry?;
        let (call, ended_at, caller) = row.value();
        found.push(Remembered {
            conversation: ConversationId(id.value().to_owned()),
            call: CallRef(call),
            ended_at,
            caller: caller.map(str::to_owned),
        });
    }
    Ok(found)
}

fn commit(database: &Database, words: &HashMap<ConversationId, Option<Box<Remembered>>>) -> Result<(), redb::Error> {
    let mut writing = database.begin_write()?;
    writing.set_durability(Durability::Immediate)?;
    {
        let mut table = writing.open_table(TABLE)?;
        for (id, word) in words {
            match word {
                Some(it) => table.insert(id.0.as_str(), (it.call.0, it.ended_at, it.caller.as_deref()))?,
                None => table.remove(id.0.as_str())?,
            };
        }
    }
    writing.commit()?;
    Ok(())
}

/// The same rows in a fresh file: a page that redb has freed still holds what was on it.
fn rewritten(database: Database, path: &Path) -> Result<Database, String> {
    let rows = read(&database).map_err(|error| error.to_string())?;
    drop(database);
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    // Left by a run that was ended in the middle of this.
    let _ = std::fs::remove_file(&beside);
    let fresh = open_database(&beside).map_err(|error| error.to_string())?;
    let words = rows.into_iter().map(|row| (row.conversation.clone(), Some(Box::new(row)))).collect();
    commit(&fresh, &words).map_err(|error| error.to_string())?;
    std::fs::rename(&beside, path).and_then(|()| folder_synced(path)).map_err(|error| error.to_string())?;
    Ok(fresh)
}

/// A file's new place is on disk when its folder is.
fn folder_synced(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Command, Stdio};
    use std::sync::mpsc;

    use super::*;

    fn remembered(id: &str, ended_at: i64) -> Remembered {
        let caller = Some("15550100".to_owned());
        Remembered { conversation: ConversationId(id.to_owned()), call: CallRef(7), ended_at, caller }
    }

    fn id(id: &str) -> ConversationId {
        ConversationId(id.to_owned())
    }

    fn start(path: &Path, capacity: usize) -> Result<(Vec<Remembered>, Conversations, Writer), OpenError> {
        let mut store = open(path)?;
        let remembered = store.take();
        let (conversations, writer) = store.start(Vec::new(), capacity).unwrap();
        Ok((remembered, conversations, writer))
    }

    fn remember(conversations: &Conversations, it: Remembered) {
        conversations.write(Change { conversation: it.conversation.clone(), to: Some(Box::new(it)) });
    }

    /// Erases and waits for the word.
    fn erased(conversations: &Conversations, of: &str) -> bool {
        let (told, word) = mpsc::channel();
        conversations.erase(id(of), Box::new(move |done| told.send(done).unwrap()));
        word.recv().unwrap()
    }

    fn file() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("conversations.redb");
        (folder, path)
    }

    #[test]
    fn a_restart_keeps_what_was_remembered_and_not_what_was_forgotten() {
        let (_folder, path) = file();
        let (before, conversations, writer) = start(&path, CAPACITY).unwrap();
        assert!(before.is_empty());
        for (name, ended_at) in [("b", 20), ("a", 30), ("c", 10), ("gone", 1), ("a", 5)] {
            remember(&conversations, remembered(name, ended_at));
        }
        conversations.write(Change { conversation: id("gone"), to: None });
        let status = writer.finish();
        assert_eq!((status.lost, status.failing), (0, false));
        let (after, _, writer) = start(&path, CAPACITY).unwrap();
        writer.finish();
        assert_eq!(after, [remembered("a", 5), remembered("c", 10), remembered("b", 20)]);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600, "it may hold numbers");
    }

    #[test]
    fn what_the_settings_of_a_new_run_change_is_written_first_however_much_it_is() {
        let (_folder, path) = file();
        let (_, conversations, writer) = start(&path, CAPACITY).unwrap();
        (0..50).for_each(|n| remember(&conversations, remembered(&format!("c-{n}"), n)));
        writer.finish();
        let mut store = open(&path).unwrap();
        let changes = store.take().into_iter().map(|it| Change { conversation: it.conversation, to: None }).collect();
        let (_, writer) = store.start(changes, 1).unwrap();
        assert_eq!(writer.finish().written, 50);
        assert!(open(&path).unwrap().take().is_empty());
    }

    #[test]
    fn changes_that_come_together_are_written_together() {
        let (_folder, path) = file();
        let (_, conversations, writer) = start(&path, CAPACITY).unwrap();
        (0..5_000).for_each(|n| remember(&conversations, remembered(&format!("c-{n}"), n)));
        let status = writer.finish();
        assert_eq!((status.written, status.lost), (5_000, 0));
        assert!(status.groups < 500, "{} groups", status.groups);
    }

    #[test]
    fn of_an_erased_conversation_no_octet_is_left_in_the_file() {
        let (_folder, path) = file();
        let (_, conversations, writer) = start(&path, CAPACITY).unwrap();
        let secret = Remembered { caller: Some("15559876543".to_owned()), ..remembered("conversation-to-erase", 1) };
        remember(&conversations, secret);
        remember(&conversations, remembered("conversation-to-keep", 2));
        while conversations.status().written < 2 {
            std::thread::yield_now();
        }
        let holds = |text: &str| std::fs::read(&path).unwrap().windows(text.len()).any(|it| it == text.as_bytes());
        assert!(holds("conversation-to-erase") && holds("15559876543"));
        assert!(erased(&conversations, "conversation-to-erase"));
        assert!(!holds("conversation-to-erase") && !holds("15559876543"));
        remember(&conversations, remembered("afterwards", 3));
        writer.finish();
        let (kept, _, writer) = start(&path, CAPACITY).unwrap();
        writer.finish();
        assert_eq!(kept, [remembered("conversation-to-keep", 2), remembered("afterwards", 3)]);
    }

    #[test]
    fn a_disk_that_fails_holds_nobody_up_and_loses_nothing_that_fits() {
        let (_folder, path) = file();
        let (_, conversations, writer) = start(&path, 2).unwrap();
        // The fresh file cannot be made where a folder with something in it stands.
        let in_the_way = path.with_extension("redb.new");
        std::fs::create_dir_all(in_the_way.join("x")).unwrap();
        assert!(!erased(&conversations, "a"));
        assert!(conversations.status().failing);
        std::fs::remove_dir_all(&in_the_way).unwrap();
        remember(&conversations, remembered("b", 1));
        let status = writer.finish();
        assert_eq!((status.lost, status.failing), (0, false));
        let (kept, _, writer) = start(&path, CAPACITY).unwrap();
        writer.finish();
        assert_eq!(kept, [remembered("b", 1)]);
    }

    #[test]
    fn a_file_that_cannot_be_used_is_an_error_that_names_the_fix() {
        let (_folder, path) = file();
        let why = |path: &Path| start(path, 1).map(|_| ()).unwrap_err().to_string();
        std::fs::write(&path, "this is no store of anything at all".repeat(500)).unwrap();
        assert!(why(&path).contains("move it away"), "{}", why(&path));
        std::fs::remove_file(&path).unwrap();
        let (_, conversations, writer) = start(&path, CAPACITY).unwrap();
        (0..2_000).for_each(|n| remember(&conversations, remembered(&format!("c-{n}"), n)));
        assert!(why(&path).contains("is in use: give each switchback"), "{}", why(&path));
        writer.finish();
        let whole = std::fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        flipped.chunks_mut(512).skip(8).for_each(|chunk| chunk[100] ^= 0x5a);
        for damaged in [&whole[..whole.len() / 2], &whole[..3], &flipped] {
            std::fs::write(&path, damaged).unwrap();
            assert!(why(&path).contains("move it away"), "{}", why(&path));
        }
        assert!(why(Path::new("/nonexistent/conversations.redb")).contains("cannot be opened"));
    }

    const CHILD: &str = "SWITCHBACK_TEST_STORE";

    /// Another process that writes to this file as fast as it can; a shell runs these words before it.
    fn writing(path: &Path, before: &str) -> std::process::Child {
        let child = "store::conversations::tests::writes_until_it_cannot";
        Command::new("sh")
            .args(["-c", &format!("{before} exec \"$0\" --exact {child} --ignored --nocapture")])
            .arg(std::env::current_exe().unwrap())
            .env(CHILD, path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn said(child: &mut std::process::Child) -> impl Iterator<Item = String> + use<> {
        BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok)
    }

    fn written(line: &str) -> Option<usize> {
        line.strip_prefix("written ")?.parse().ok()
    }

    /// How many there are: all from the first to the last, whatever became of whoever wrote them.
    fn whole(path: &Path) -> usize {
        let kept = open(path).unwrap().take();
        assert!(kept.iter().enumerate().all(|(n, it)| it.ended_at == n as i64), "groups are there whole or not at all");
        kept.len()
    }

    #[test]
    fn a_kill_in_the_middle_of_writing_loses_the_last_group_at_most() {
        let (_folder, path) = file();
        let mut child = writing(&path, "");
        let mut acknowledged = said(&mut child).filter_map(|line| written(&line));
        let some = acknowledged.find(|written| *written > 3_000).expect("it writes");
        child.kill().unwrap();
        child.wait().unwrap();
        let last = acknowledged.max().unwrap_or(some).max(some);
        let there = whole(&path);
        assert!(there >= last, "{last} were on disk, {there} are");
    }

    #[test]
    fn a_full_disk_is_an_alarm_and_what_was_written_stays() {
        let (_folder, path) = file();
        // No file grows beyond so many blocks, and trying is an error instead of a signal.
        let mut child = writing(&path, "trap '' XFSZ; ulimit -f 6000;");
        let lines: Vec<String> = said(&mut child).collect();
        assert!(child.wait().unwrap().success(), "{:?}", lines.iter().rev().take(5).collect::<Vec<_>>());
        assert!(lines.iter().any(|line| line == "failing"), "{:?}", lines.last());
        let last = lines.iter().filter_map(|line| written(line)).max().unwrap();
        let there = whole(&path);
        assert!(there >= last && last > 0, "{last} were on disk, {there} are");
    }

    #[test]
    #[ignore = "the other process of the tests above"]
    fn writes_until_it_cannot() {
        let path = std::env::var_os(CHILD).expect("run by the tests above");
        let (_, conversations, writer) = start(Path::new(&path), CAPACITY).unwrap();
        let mut said = 0;
        for n in 0..1_000_000_u64 {
            remember(&conversations, remembered(&format!("c-{n}"), n as i64));
            let status = conversations.status();
            if status.written > said {
                println!("written {}", status.written);
                said = status.written;
            }
            while n - conversations.status().written > 5_000 && !conversations.status().failing {
                std::thread::yield_now();
            }
            if conversations.status().failing {
                println!("failing");
                break;
            }
        }
        assert!(writer.finish().lost > 0, "what could not be written is counted");
    }
}
