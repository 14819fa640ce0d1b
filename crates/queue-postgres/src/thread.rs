//! The thread of an opened role: a runtime of its own for its connections, which outlives the caller's futures.

use std::io;
use std::thread::JoinHandle;

/// A thread that runs one future on its own runtime. Dropping it waits until that future has ended: whoever holds it closes
/// first what the future reads from, and the future bounds what it still waits for.
pub struct StoreThread(Option<JoinHandle<()>>);

impl StoreThread {
    /// Starts a thread; `work` is called on it and may spawn local tasks.
    pub fn start<F>(name: &str, work: impl FnOnce() -> F + Send + 'static) -> io::Result<Self>
    where
        F: Future<Output = ()> + 'static,
    {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let mut runtime = runtime;
            match runtime.enable_all().build_local(Default::default()) {
                Ok(runtime) => runtime.block_on(async { work().await }),
                Err(error) => tracing::error!(%error, "no runtime for the database"),
            }
        })?;
        Ok(Self(Some(thread)))
    }

    /// Waits until the future has ended.
    pub fn finish(&mut self) {
        if let Some(thread) = self.0.take()
            && thread.join().is_err()
        {
            tracing::error!("a thread of the database panicked");
        }
    }
}

impl Drop for StoreThread {
    fn drop(&mut self) {
        self.finish();
    }
}
