//! What happens by itself: the disk works, time passes, records are read for the dead letters and for queue groups.

use dure_engine::{
    DiskJob, FoundRecords, Input, JobDone, Letter, LetterError, Now, RecordFacts, RecordTable, letter_batch,
};
use dure_proto::Record;

use super::Checked;
use super::model::{read_batch, read_value};
use super::world::{LetterRequest, TableRequest, World};

impl World {
    /// One of the things that happen by themselves.
    pub(crate) fn machine_step(&mut self) -> Checked {
        match self.rng.u8(0..10) {
            0..=3 => self.run_a_job(),
            4..=6 => self.finish_a_job(),
            7 if self.is_small && self.rng.u8(0..3) == 0 => self.let_space_come_back(),
            7 if self.rng.bool() => return self.return_a_letter(),
            7 => return self.return_a_table(),
            _ => {
                let ms = match self.rng.u8(0..16) {
                    0 => self.rng.u64(100..3_000),
                    _ => self.rng.u64(0..25),
                };
                self.advance(ms);
            }
        }
        Ok(())
    }

    pub(crate) fn advance(&mut self, ms: u64) {
        self.now = Now { mono_ms: self.now.mono_ms + ms, wall_ms: self.now.wall_ms + ms };
        self.ran_ms += ms;
    }

    /// Any job that was given out, whatever the order: they run side by side.
    fn run_a_job(&mut self) {
        if self.jobs.is_empty() {
            return;
        }
        let job = self.jobs.remove(self.rng.usize(0..self.jobs.len()));
        self.note(format_args!("run {job:?}"));
        self.run_job(job);
    }

    /// What it does to the disk happens now; the shard can hear of it once all its calls have come back.
    pub(crate) fn run_job(&mut self, job: DiskJob) {
        let spent_before_ms = self.disk.spent_ms();
        let done = job.run(&self.disk);
        let takes_ms = self.disk.spent_ms() - spent_before_ms;
        self.done.push((self.now.mono_ms + takes_ms, done));
    }

    /// The shard hears of any job that was run and has come to its end.
    fn finish_a_job(&mut self) {
        let over: Vec<usize> = (0..self.done.len()).filter(|i| self.done[*i].0 <= self.now.mono_ms).collect();
        if over.is_empty() {
            return;
        }
        let (_, done) = self.done.remove(over[self.rng.usize(0..over.len())]);
        self.note(format_args!("tell {done:?}"));
        self.tell_done(done);
    }

    pub(crate) fn tell_done(&mut self, done: JobDone) {
        self.told_commit = self.told_commit.max(done.durable_seq().map_or(0, |seq| seq.0));
        self.handle(Input::JobDone(done));
    }

    pub(crate) fn return_a_letter(&mut self) -> Checked {
        if self.letters.is_empty() {
            return Ok(());
        }
        let request = self.letters.remove(self.rng.usize(0..self.letters.len()));
        let LetterRequest { group, source, offset, from } = request;
        let value = match self.views.get(&from.0) {
            Some(view) if from.1 >= view.log_start => match read_value(view, from.1) {
                Ok(None) => Err(LetterError::Unread("the disk said no".into())),
                Ok(Some(value)) => Ok(value),
                Err(_) if self.damaged => Err(LetterError::Damaged("its checksum is wrong".into())),
                Err(violation) => return Err(violation),
            },
            _ => Err(LetterError::Damaged("it is gone".into())),
        };
        let batch = value.map(|value| {
            let (offset_delta, timestamp_ms, key, headers) = (0, 0, None, Vec::new());
            letter_batch(Ok(&Record { offset_delta, timestamp_ms, key, value, headers }))
        });
        self.note(format_args!("letter {source} {offset}"));
        self.handle(Input::Letter(Letter { group, source, offset, batch }));
        Ok(())
    }

    /// Any table that was asked for, of one batch or a part of it; sometimes the disk refuses.
    pub(crate) fn return_a_table(&mut self) -> Checked {
        if self.tables.is_empty() {
            return Ok(());
        }
        let request = self.tables.remove(self.rng.usize(0..self.tables.len()));
        let TableRequest { group, partition, from, seed } = request;
        let view = self.views.get(&partition).filter(|view| from >= view.log_start);
        let records = match view {
            Some(view) if self.rng.u8(0..50) > 0 => match read_batch(view, from) {
                Err(_) if self.damaged => None,
                read => read?,
            },
            _ => None,
        };
        let table = match records {
            Some((header, records)) => {
                let facts = RecordFacts::of_batch(&records, from, header.append_time_ms, seed);
                let count = 1 + self.rng.usize(0..header.end_offset().since(from) as usize);
                RecordTable::Records(facts.take(count).collect())
            }
            None => RecordTable::Failed,
        };
        self.note(format_args!("record table {partition} {from}: {table:?}"));
        self.handle(Input::Records(FoundRecords { group, partition, from, table }));
        Ok(())
    }
}
