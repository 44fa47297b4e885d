//! What one worker is told by the others: a bounded queue, and a way to wake whoever sleeps beside it.

use std::sync::atomic::{AtomicBool, Ordering, fence};

use crossbeam::queue::ArrayQueue;
use mesh::Share;

use crate::budget::INBOX_SHARES;
use crate::plane::Waker;

/// A worker's news from the other workers.
pub(crate) struct Inbox {
    shares: ArrayQueue<Share>,
    waker: Waker,
    /// The worker sleeps, or is about to: whoever adds something wakes it.
    sleeping: AtomicBool,
}

impl Inbox {
    pub(crate) fn new(waker: Waker) -> Inbox {
        Inbox { shares: ArrayQueue::new(INBOX_SHARES), waker, sleeping: AtomicBool::new(false) }
    }

    /// Returns whether there was room.
    pub(crate) fn push(&self, share: Share) -> bool {
        self.shares.push(share).is_ok()
    }

    pub(crate) fn pop(&self) -> Option<Share> {
        self.shares.pop()
    }

    /// After one or more pushes. Costs a system call only when the worker sleeps.
    pub(crate) fn wake(&self) {
        // Either this load sees that the worker is going to sleep, or that one's look at the queue sees what was pushed:
        // between the write and the read of each stands a fence.
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::Relaxed) {
            self.waker.wake();
        }
    }

    /// To be asked by the worker before it sleeps; `false` when there is news. [`Inbox::note_awake`] is to follow in
    /// either case.
    pub(crate) fn may_sleep(&self) -> bool {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.shares.is_empty()
    }

    /// The worker looks at its inbox by itself again.
    pub(crate) fn note_awake(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }
}
