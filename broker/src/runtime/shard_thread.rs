//! The thread that a shard lives on: takes what has arrived, lets the engine decide, and carries out what it says.

use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use dure_engine::{Input, Shard};
use dure_proto::ShardId;

use super::disk_threads::{PanicGuard, go_first};
use super::effects::Effects;
use super::{Message, reply_to};
use crate::clock::Clock;
use crate::health::Health;

/// What is taken from the inbox before commits are formed and effects carried out.
const TURN_MESSAGES_MAX: usize = 1024;

pub(super) fn start(
    id: ShardId,
    shard: Shard,
    clock: Clock,
    inbox: Receiver<Message>,
    effects: Effects,
    health: Health,
) -> JoinHandle<()> {
    let name = format!("shard-{id}");
    let guard = PanicGuard { shard: id, health, thread: name.clone() };
    let run = move || {
        let _guard = guard;
        go_first();
        ShardThread { shard, clock, inbox, effects, stopping: false }.run();
    };
    thread::Builder::new().name(name).spawn(run).expect("the system has room for a thread")
}

struct ShardThread {
    shard: Shard,
    clock: Clock,
    inbox: Receiver<Message>,
    effects: Effects,
    stopping: bool,
}

impl ShardThread {
    fn run(mut self) {
        self.turn();
        while !(self.stopping && self.shard.is_drained()) {
            let Some(first) = self.wait() else { return self.effects.refuse_the_rest(self.shard.stopped()) };
            if let Some(message) = first {
                self.handle(message);
                for message in self.inbox.clone().try_iter().take(TURN_MESSAGES_MAX - 1) {
                    self.handle(message);
                }
            }
            self.turn();
        }
        for message in self.inbox.clone().try_iter() {
            self.effects.refuse(message);
        }
        self.effects.refuse_the_rest(self.shard.stopped());
    }

    /// The next message; none inside when a timer is due, none at all when everyone who could send is gone.
    fn wait(&self) -> Option<Option<Message>> {
        let received = match self.shard.poll_timeout() {
            Some(mono_ms) => self.inbox.recv_deadline(self.clock.instant(mono_ms)),
            None => self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match received {
            Ok(message) => Some(Some(message)),
            Err(RecvTimeoutError::Timeout) => Some(None),
            Err(RecvTimeoutError::Disconnected) => None,
        }
    }

    fn turn(&mut self) {
        self.shard.turn(self.clock.now());
        while let Some(job) = self.effects.carry_out(self.shard.take_effects(), self.inbox.is_empty()) {
            let done = self.effects.run_here(job);
            self.handle(Message::Done(done));
            self.shard.turn(self.clock.now());
        }
    }

    fn handle(&mut self, message: Message) {
        let now = self.clock.now();
        match message {
            Message::Attach { connection, outbox } => self.effects.attach(connection, outbox),
            Message::Detach(connection) => {
                self.effects.detach(connection);
                self.shard.handle(now, Input::ConnectionClosed(connection));
            }
            Message::Request { connection, request, pending } => {
                let key = self.effects.await_answer(connection, pending);
                self.shard.handle(now, Input::Request { reply_to: reply_to(connection, key), request });
            }
            Message::OneWay { connection, request, permits } => {
                self.effects.one_way(connection, &request);
                self.shard.handle(now, Input::Request { reply_to: reply_to(connection, 0), request });
                drop(permits);
            }
            Message::Done(done) => {
                self.effects.note_done(&done);
                self.shard.handle(now, Input::JobDone(done));
            }
            Message::Letter(letter) => self.shard.handle(now, Input::Letter(letter)),
            Message::Records(found) => self.shard.handle(now, Input::Records(found)),
            Message::Shutdown => {
                self.stopping = true;
                self.shard.begin_shutdown(now);
            }
        }
    }
}
