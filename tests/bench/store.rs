//! What it costs to have conversations on disk: `cargo bench --bench store`.

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use switchback::b2bua::io::{Change, Remembered};
use switchback::call::{CallRef, ConversationId};
use switchback::clock;
use switchback::store::conversations::{CAPACITY, Conversations, open};

/// Hands over so many changes and waits until all of them are on disk.
fn write(conversations: &Conversations, changes: u64) -> Duration {
    let until = conversations.status().written + changes;
    let began: Instant = clock::now();
    for n in 0..changes {
        let conversation = ConversationId(format!("conversation-{n:08}"));
        let remembered = Remembered {
            conversation: conversation.clone(),
            call: CallRef(n.into()),
            ended_at: n as i64,
            caller: None,
        };
        conversations.write(Change { conversation, to: Some(Box::new(remembered)) });
    }
    while conversations.status().written < until {
        std::thread::yield_now();
    }
    clock::now() - began
}

fn conversations(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder.path().join("conversations.redb")).expect("a store");
    let (conversations, writer) = store.start(Vec::new(), CAPACITY).expect("a thread");
    let mut group = criterion.benchmark_group("conversations on disk");
    for changes in [1, 100, 5_000] {
        group.throughput(Throughput::Elements(changes));
        group.bench_function(format!("{changes} at once"), |bencher| {
            bencher.iter_custom(|times| (0..times).map(|_| write(&conversations, changes)).sum());
        });
    }
    group.finish();
    let status = writer.finish();
    println!("{} changes in {} groups, {} lost", status.written, status.groups, status.lost);
}

criterion_group!(benches, conversations);
criterion_main!(benches);
