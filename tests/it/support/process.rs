//! The real binary as a child process, its output kept line by line.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};

use super::wait::until;

/// Everything the process wrote, standard output and standard error in one list.
pub type Lines = Arc<Mutex<Vec<String>>>;

pub struct Process {
    child: Child,
}

/// The program under test; `POSTERN_TEST_BIN` names another build of it.
pub fn binary() -> OsString {
    std::env::var_os("POSTERN_TEST_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_postern").into())
}

/// The binary with no `POSTERN_` variable but those of the test.
pub fn postern(env: &[(String, String)]) -> Command {
    let mut command = Command::new(binary());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("POSTERN_") {
            command.env_remove(name);
        }
    }
    command.envs(env.iter().map(|(name, value)| (name, value)));
    command
}

/// Runs the binary to its end. For calls that end by themselves.
pub fn run_to_end(args: &[&str], env: &[(String, String)]) -> Output {
    postern(env).args(args).stdin(Stdio::null()).output().expect("the binary starts")
}

impl Process {
    /// A shell does `before` and then becomes the gateway.
    pub fn run_after(before: Option<&str>, config: &Path, env: &[(String, String)], lines: &Lines) -> Self {
        let mut command = postern(env);
        if let Some(before) = before {
            let gateway = command.get_program().to_owned();
            let removed: Vec<_> =
                command.get_envs().map(|(k, v)| (k.to_owned(), v.map(ToOwned::to_owned))).collect();
            command = Command::new("sh");
            for (name, value) in removed {
                match value {
                    Some(value) => command.env(name, value),
                    None => command.env_remove(name),
                };
            }
            command.arg("-c").arg(format!("{before}; exec \"$0\" \"$@\"")).arg(gateway);
        }
        command.arg("run").arg("--config").arg(config);
        Self::spawn(command, lines)
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap()).expect("a pid")
    }

    pub fn spawn(mut command: Command, lines: &Lines) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        keep(child.stdout.take().expect("stdout"), lines);
        keep(child.stderr.take().expect("stderr"), lines);
        Self { child }
    }

    /// One that the test has started, its output going where the test wants it.
    pub fn of(child: Child) -> Self {
        Self { child }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the child can be asked")
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the signal is delivered");
    }

    /// Waits for the end and answers the exit code.
    pub async fn exit_code(&mut self) -> i32 {
        let status = until("the gateway to exit", || self.exited()).await;
        status.code().unwrap_or_else(|| panic!("ended by a signal: {status}"))
    }

    /// SIGKILL: no chance to write anything more.
    pub fn kill9(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill9();
    }
}

fn keep(pipe: impl Read + Send + 'static, lines: &Lines) {
    let lines = Arc::clone(lines);
    thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            lines.lock().unwrap().push(String::from_utf8_lossy(&line).into_owned());
        }
    });
}
