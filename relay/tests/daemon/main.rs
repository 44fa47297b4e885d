//! The daemon as those meet it who start it and those who talk to it over UDP.

mod admin;
mod caps;
mod chain;
mod churn;
mod command_line;
mod commands;
mod daemon;
mod dashboard;
mod hostile;
mod hostile_http;
mod in_process;
mod locked_memory;
mod lossy;
mod peer;
mod quota;
mod reload;
mod restart;
mod service;
mod sessions;
mod systemd;
mod wait;
mod without_io_uring;
mod workers;
