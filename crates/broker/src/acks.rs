//! Acks, many in one. Each ack of a quorum queue is an entry of its log, so acking one by one costs the
//! broker more than taking the messages. One ack may stand for all messages of a channel up to it: it is
//! sent only when every one of those has been answered.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    time::Duration,
};

use lapin::{Channel, options::BasicAckOptions};
use tokio::{
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};

/// How long acks gather after some were sent. The first after a quiet time goes at once.
const GATHER: Duration = Duration::from_millis(5);

/// What was said of a message of the channel.
enum Answer {
    /// It is settled and may be acked.
    Settled(u64),
    /// It was given back.
    Returned(u64),
    /// Everything settled is to be acked now; answered when it is.
    Flush(oneshot::Sender<()>),
}

/// The acks of one channel; clones share them. They are sent by a task, which ends with the last clone.
/// What waits for it is bounded by the prefetch: each message is answered once, and no more are handed out.
#[derive(Clone)]
pub(crate) struct Acks(mpsc::UnboundedSender<Answer>);

/// The same, without keeping the channel open.
pub(crate) struct WeakAcks(mpsc::WeakUnboundedSender<Answer>);

impl WeakAcks {
    /// `None` once the channel is done with.
    pub(crate) fn upgrade(&self) -> Option<Acks> {
        self.0.upgrade().map(Acks)
    }
}

impl Acks {
    pub(crate) fn start(channel: Channel) -> Self {
        let (answers, queue) = mpsc::unbounded_channel();
        tokio::spawn(send_all(channel, queue));
        Self(answers)
    }

    pub(crate) fn downgrade(&self) -> WeakAcks {
        WeakAcks(self.0.downgrade())
    }

    /// The message of this delivery tag is settled. Should its ack not arrive, it comes again.
    pub(crate) fn settled(&self, tag: u64) {
        let _ = self.0.send(Answer::Settled(tag));
    }

    /// The message of this delivery tag was given back, by a frame that is on its way already.
    pub(crate) fn returned(&self, tag: u64) {
        let _ = self.0.send(Answer::Returned(tag));
    }

    /// Returns once all that is settled is on its way to the broker.
    pub(crate) async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.0.send(Answer::Flush(done)).is_ok() {
            let _ = flushed.await;
        }
    }
}

async fn send_all(channel: Channel, mut answers: mpsc::UnboundedReceiver<Answer>) {
    let mut tags = Tags::default();
    let mut flushing = Vec::new();
    while let Some(answer) = next(&mut answers, tags.waits()).await {
        let mut more = answer;
        while let Some(answer) = more {
            match answer {
                Answer::Settled(tag) => tags.settled(tag),
                Answer::Returned(tag) => tags.returned(tag),
                Answer::Flush(done) => flushing.push(done),
            }
            more = answers.try_recv().ok();
        }
        for Ack { tag, multiple } in tags.acks(!flushing.is_empty()) {
            if channel
                .basic_ack(tag, BasicAckOptions { multiple })
                .await
                .is_err()
            {
                return; // The channel is gone, and all that was not acked comes again.
            }
        }
        for done in flushing.drain(..) {
            let _: Result<(), ()> = done.send(());
        }
        sleep(GATHER).await;
    }
}

/// The next answer; none if some are waiting and no other comes; and nothing after the last one.
async fn next(answers: &mut mpsc::UnboundedReceiver<Answer>, waits: bool) -> Option<Option<Answer>> {
    if !waits {
        return answers.recv().await.map(Some);
    }
    match timeout(GATHER, answers.recv()).await {
        Ok(None) | Err(_) => Some(None),
        Ok(answer) => Some(answer),
    }
}

/// An ack to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ack {
    tag: u64,
    multiple: bool,
}

/// What has been said of a channel's delivery tags, which count from 1 without gaps.
#[derive(Debug, Default)]
struct Tags {
    /// All up to this one are answered, and the broker knows.
    through: u64,
    /// Those after it that are settled and not acked, and whether they have waited for those before
    /// them already.
    settled: BTreeMap<u64, bool>,
    /// Those after it that the broker knows of.
    known: BTreeSet<u64>,
}

impl Tags {
    fn settled(&mut self, tag: u64) {
        self.settled.insert(tag, false);
    }

    fn returned(&mut self, tag: u64) {
        self.known.insert(tag);
    }

    /// Whether anything is settled and not acked.
    fn waits(&self) -> bool {
        !self.settled.is_empty()
    }

    /// The acks to send now: one for all that have nothing unanswered before them, and one for each of
    /// the others that has waited for those before it, or for `all`.
    fn acks(&mut self, all: bool) -> Vec<Ack> {
        let first = self.first();
        let single = |tag| Ack { tag, multiple: false };
        let alone = self
            .settled
            .extract_if(.., |_, waited| mem::replace(waited, true) || all);
        let alone: Vec<u64> = alone.map(|(tag, _)| tag).collect();
        self.known.extend(&alone);
        first.into_iter().chain(alone.into_iter().map(single)).collect()
    }

    /// One ack for every message up to the first that is unanswered. Its own tag must be one that the
    /// broker still waits for.
    fn first(&mut self) -> Option<Ack> {
        let (mut last, mut count) = (None, 0);
        loop {
            let next = self.through + 1;
            if self.settled.remove(&next).is_some() {
                (last, count) = (Some(next), count + 1);
            } else if !self.known.remove(&next) {
                break;
            }
            self.through = next;
        }
        let multiple = count > 1;
        last.map(|tag| Ack { tag, multiple })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(tag: u64) -> Ack {
        let multiple = false;
        Ack { tag, multiple }
    }

    fn up_to(tag: u64) -> Ack {
        let multiple = true;
        Ack { tag, multiple }
    }

    fn settled(tags: &mut Tags, settled: impl IntoIterator<Item = u64>) {
        settled.into_iter().for_each(|tag| tags.settled(tag));
    }

    #[test]
    fn all_in_order_are_one_ack() {
        let mut tags = Tags::default();
        settled(&mut tags, [2, 1, 3]);
        assert_eq!(tags.acks(false), [up_to(3)]);
        settled(&mut tags, [4]);
        assert_eq!(tags.acks(false), [one(4)]);
        assert!(!tags.waits());
        assert_eq!(tags.acks(false), []);
    }

    #[test]
    fn what_comes_after_an_unanswered_message_waits_once_and_is_acked_alone() {
        let mut tags = Tags::default();
        settled(&mut tags, [1, 3]);
        assert_eq!(tags.acks(false), [one(1)]);
        assert!(tags.waits());
        settled(&mut tags, [4]);
        assert_eq!(tags.acks(false), [one(3)]);
        settled(&mut tags, [2]);
        assert_eq!(tags.acks(false), [up_to(4)]);
        assert_eq!((tags.through, tags.known.len()), (4, 0));
    }

    #[test]
    fn what_was_acked_or_given_back_is_not_named_again() {
        let mut tags = Tags::default();
        settled(&mut tags, [2]);
        assert_eq!(tags.acks(true), [one(2)]);
        tags.returned(3);
        settled(&mut tags, [1]);
        assert_eq!(tags.acks(false), [one(1)], "the broker knows 3 no more");
        assert_eq!(tags.through, 3);
    }

    /// The broker's side: an ack must name what it waits for, and a multiple one takes all before it.
    #[test]
    fn in_any_order_everything_settled_is_acked_and_nothing_else() {
        let mut random = 0x2545_F491_4F6C_DD1D_u64;
        let mut below = move |limit: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % limit
        };
        for _ in 0..200 {
            let (mut tags, mut unanswered) = (Tags::default(), (1..=200).collect::<Vec<u64>>());
            let mut waited_for: BTreeSet<u64> = (1..=200).collect();
            let mut ackable = BTreeSet::new();
            while !unanswered.is_empty() {
                let near = below(20.min(unanswered.len() as u64));
                let tag = unanswered.remove(usize::try_from(near).unwrap());
                if below(10) == 0 {
                    waited_for.remove(&tag);
                    tags.returned(tag);
                } else {
                    ackable.insert(tag);
                    tags.settled(tag);
                }
                if below(5) == 0 {
                    take(&mut waited_for, &ackable, &tags.acks(below(10) == 0));
                }
            }
            take(&mut waited_for, &ackable, &tags.acks(true));
            assert!(waited_for.is_empty());
            assert!(!tags.waits());
        }
    }

    fn take(waited_for: &mut BTreeSet<u64>, ackable: &BTreeSet<u64>, acks: &[Ack]) {
        for ack in acks {
            assert!(waited_for.contains(&ack.tag), "unknown delivery tag {}", ack.tag);
            let taken: Vec<u64> = waited_for
                .iter()
                .copied()
                .filter(|tag| *tag == ack.tag || ack.multiple && *tag < ack.tag)
                .collect();
            for tag in taken {
                assert!(ackable.contains(&tag), "{tag} was not settled");
                waited_for.remove(&tag);
            }
        }
    }
}
