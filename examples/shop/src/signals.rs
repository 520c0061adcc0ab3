//! Ctrl-C, and what a service manager sends.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens for somebody who wants the program to end.
#[derive(Debug)]
pub(crate) struct Interrupted {
    pressed: Signal,
    terminated: Signal,
}

impl Interrupted {
    pub(crate) fn listen() -> std::io::Result<Self> {
        Ok(Self { pressed: signal(SignalKind::interrupt())?, terminated: signal(SignalKind::terminate())? })
    }

    /// Waits until somebody does.
    pub(crate) async fn asked(&mut self) {
        tokio::select! {
            _ = self.pressed.recv() => {}
            _ = self.terminated.recv() => {}
        }
    }
}
