//! The options of the keeper, and what starts it.

use std::env;
use std::io;
use std::os::unix::net::UnixListener;
use std::process::ExitCode;

use clap::{Args, value_parser};

use super::daemon::{DaemonArgs, Served};
use super::serving::USAGE;
use super::signals::outlive_file_size_limit;
use super::{complain, one_line, service};
use crate::keeper::{KeeperError, Plan, keep};
use crate::vhost_user::{DeviceConfig, Endpoint, Error, PassedSockets, raise_descriptor_limit};

/// The process that holds the connections of frontends.
#[derive(Debug, Clone, Args)]
pub struct KeeperArgs {
    /// Hold the connections of frontends, and have another process serve them, which is replaced without their
    /// notice when it has ended, and at SIGHUP
    #[arg(long)]
    pub(super) keeper: bool,

    /// Most times that --keeper starts the serving process within a minute; from half of that on, it waits before
    /// each start
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = value_parser!(u32).range(2..=100_000), requires = "keeper")]
    pub(super) most_starts: u32,

    /// The descriptors from which connections are taken, one for each device: how --keeper starts this program
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = value_parser!(i32).range(0..), hide = true)]
    pub(super) kept: Vec<i32>,
}

impl KeeperArgs {
    /// Returns whether this process is to be the keeper.
    #[must_use]
    pub fn is_keeper(&self) -> bool {
        self.keeper && self.kept.is_empty()
    }
}

/// Why the devices are not kept.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error(transparent)]
    Socket(#[from] Error),
    #[error("--keeper needs listening sockets, and {0} is connected")]
    Connected(String),
    #[error("cannot find this program, to start it again")]
    Program(#[source] io::Error),
    #[error("cannot prepare the socket of {0}")]
    Prepare(String, #[source] io::Error),
    #[error(transparent)]
    Keeper(#[from] KeeperError),
}

/// Holds the connections of the devices that `args` say, for `program`, until it is told to end.
#[must_use]
pub fn keep_devices(program: &str, args: DaemonArgs) -> ExitCode {
    args.devices.log_level.start_logging();
    run(program, args).unwrap_or_else(|error| {
        log::error!("{}", one_line(&error));
        ExitCode::FAILURE
    })
}

fn run(program: &str, args: DaemonArgs) -> Result<ExitCode, KeepError> {
    let mut passed = PassedSockets::from_environment()?;
    let DaemonArgs { devices, sandbox, keeper, .. } = args;
    let mut devices = match devices.served(passed.len()) {
        Ok(Served { devices, .. }) => devices,
        Err(error) => {
            complain(format_args!("{program}: {error} (see --help)"));
            return Ok(ExitCode::from(USAGE));
        }
    };
    if devices.is_empty() {
        complain(format_args!("{program}: --keeper: say which devices to serve (see --help)"));
        return Ok(ExitCode::from(USAGE));
    }
    passed.hand_out(&mut devices)?;
    if let Err(error) = outlive_file_size_limit() {
        log::warn!("cannot watch for SIGXFSZ: {error}");
    }
    raise_descriptor_limit();
    let sandbox = sandbox.sandbox(&[], None);
    // The names of the sockets are removed when this function returns.
    let mut names = Vec::new();
    let mut sockets = Vec::new();
    for device in &devices {
        let name = device.socket().to_string();
        let (listener, socket_name) = listener(device, &name)?;
        names.extend(socket_name);
        sockets.push((name, listener));
    }
    let count = sockets.len();
    let plan = Plan {
        program: env::current_exe().map_err(KeepError::Program)?,
        arguments: env::args_os().skip(1).collect(),
        devices: sockets,
        most_starts: keeper.most_starts,
        sandbox: Some(sandbox),
        on_ready: Box::new(move || {
            if let Err(error) = service::ready(count) {
                log::warn!("cannot answer the watchdog: {error}");
            }
        }),
    };
    let code = keep(plan)?;
    service::stopping();
    Ok(code)
}

type Listener = (UnixListener, Option<crate::vhost_user::SocketName>);

fn listener(device: &DeviceConfig, name: &str) -> Result<Listener, KeepError> {
    match Endpoint::open(device.socket())? {
        Endpoint::Listening(listener, socket_name) => {
            let prepared = listener.set_nonblocking(true);
            prepared.map_err(|source| KeepError::Prepare(name.to_owned(), source))?;
            Ok((listener, socket_name))
        }
        _ => Err(KeepError::Connected(name.to_owned())),
    }
}
