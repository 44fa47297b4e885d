//! What `superpeer top` shows, and in which order.

use std::cmp::Ordering;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Paragraph, Row, Table, TableState, Wrap};
use relay::status::{ChannelStatus, Status};

use super::Seen;
use crate::admin::text;

/// By what the channels are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Order {
    #[default]
    Subscribers,
    Upstreams,
    Received,
    Sent,
    Lost,
    Key,
}

/// The orders, with the place of their column.
const ORDERS: [(Order, usize); 6] = [
    (Order::Subscribers, 1),
    (Order::Upstreams, 2),
    (Order::Received, 3),
    (Order::Sent, 4),
    (Order::Lost, 5),
    (Order::Key, 0),
];

const TITLES: [&str; 8] =
    ["CHANNEL", "SUBSCRIBERS", "UPSTREAMS", "IN", "OUT", "LOST", "RECOVERED", "REPAIRED"];

/// Troubles that are shown; they are told in the order of their weight.
const TROUBLES_MAX: usize = 4;

/// Workers that are shown.
const WORKERS_MAX: usize = 16;

/// What is known, and how it is looked at.
#[derive(Default)]
pub(super) struct Screen {
    last: Option<Status>,
    /// Why nothing newer than `last` is known.
    silence: Option<String>,
    order: Order,
    is_reversed: bool,
    channels: TableState,
}

impl Screen {
    /// Takes in what the relay said. While it says nothing, the last stays.
    pub(super) fn note(&mut self, seen: Seen) {
        match seen {
            Ok(status) => (self.last, self.silence) = (Some(status), None),
            Err(why) => self.silence = Some(why),
        }
    }

    pub(super) fn sort_by_next(&mut self) {
        let place = ORDERS.iter().position(|(order, _)| *order == self.order).unwrap_or(0);
        self.order = ORDERS[(place + 1) % ORDERS.len()].0;
    }

    pub(super) fn reverse(&mut self) {
        self.is_reversed = !self.is_reversed;
    }

    pub(super) fn scroll(&mut self, rows: isize) {
        let rows_max = self.last.as_ref().map_or(0, |status| status.channels.len().saturating_sub(1));
        let offset = self.channels.offset_mut();
        *offset = offset.saturating_add_signed(rows).min(rows_max);
    }

    pub(super) fn draw(&mut self, frame: &mut Frame<'_>) {
        let nothing = Status::default();
        let last = self.last.take();
        let status = last.as_ref().unwrap_or(&nothing);
        let troubles = self.troubles(status, last.is_some());
        let workers = status.workers.len().min(WORKERS_MAX);
        let [head, trouble, work, channels, foot] = Layout::vertical([
            Constraint::Length(4),
            Constraint::Length(lines(&troubles, frame.area().width)),
            Constraint::Length(workers as u16 + 2),
            Constraint::Min(3),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        frame.render_widget(Paragraph::new(summary(status, last.is_some())), head);
        let troubles: Vec<Line<'_>> =
            troubles.into_iter().map(|text| Line::from(text).fg(Color::Red)).collect();
        frame.render_widget(Paragraph::new(troubles).wrap(Wrap { trim: true }), trouble);
        frame.render_widget(worker_table(status), work);
        self.draw_channels(frame, channels, status);
        let keys = "q quit   s sort by the next column   r turn the order round   arrows scroll";
        frame.render_widget(Paragraph::new(keys).style(Style::new().dim()), foot);
        self.last = last;
    }

    fn troubles(&self, status: &Status, is_known: bool) -> Vec<String> {
        let silence = self.silence.iter().map(|why| format!("{why}; still trying"));
        let drain = status.drain.iter().map(text::draining);
        let known = if is_known { text::troubles(status) } else { Vec::new() };
        silence.chain(drain).chain(known).take(TROUBLES_MAX).collect()
    }

    fn draw_channels(&mut self, frame: &mut Frame<'_>, area: Rect, status: &Status) {
        let mut channels: Vec<&ChannelStatus> = status.channels.iter().collect();
        channels.sort_by(|a, b| self.compare(a, b));
        let column = ORDERS.iter().find(|(order, _)| *order == self.order).map_or(0, |(_, column)| *column);
        let title = |(place, title): (usize, &&str)| match place == column {
            true => format!("{title}{}", if self.is_reversed { "△" } else { "▽" }),
            false => (*title).to_owned(),
        };
        let titles = Row::new(TITLES.iter().enumerate().map(title)).bold();
        let rows = channels.into_iter().map(|channel| {
            Row::new([
                channel.key.chars().take(16).collect(),
                channel.subscribers.to_string(),
                channel.upstreams.to_string(),
                text::bit_rate(channel.received_bps),
                text::bit_rate(channel.sent_bps),
                channel.shards_lost.to_string(),
                channel.shards_recovered.to_string(),
                channel.shards_repaired.to_string(),
            ])
        });
        let widths = [17, 12, 10, 12, 12, 10, 10, 10].map(Constraint::Length);
        frame.render_stateful_widget(Table::new(rows, widths).header(titles), area, &mut self.channels);
    }

    /// The most first, and keys in their alphabet.
    fn compare(&self, a: &ChannelStatus, b: &ChannelStatus) -> Ordering {
        let by = match self.order {
            Order::Subscribers => b.subscribers.cmp(&a.subscribers),
            Order::Upstreams => b.upstreams.cmp(&a.upstreams),
            Order::Received => b.received_bps.total_cmp(&a.received_bps),
            Order::Sent => b.sent_bps.total_cmp(&a.sent_bps),
            Order::Lost => b.shards_lost.cmp(&a.shards_lost),
            Order::Key => Ordering::Equal,
        };
        let by = by.then_with(|| a.key.cmp(&b.key));
        if self.is_reversed { by.reverse() } else { by }
    }
}

/// How many lines texts take that are wrapped at words, which cost a tenth of the width.
fn lines(texts: &[String], width: u16) -> u16 {
    let width = (usize::from(width) * 9 / 10).max(1);
    let lines: usize = texts.iter().map(|text| text.chars().count().div_ceil(width)).sum();
    u16::try_from(lines).unwrap_or(u16::MAX)
}

fn summary(status: &Status, is_known: bool) -> Vec<Line<'_>> {
    if !is_known {
        return vec![Line::from("superpeer top").bold(), Line::from("no relay has answered yet")];
    }
    let rates = status.rates.first().copied().unwrap_or_default();
    let (received, sent) = (text::bit_rate(rates.received_bps), text::bit_rate(rates.sent_bps));
    let (channels, subscribers, sessions) = (status.channels.len(), status.subscribers, status.sessions);
    let up = text::duration(status.uptime_s);
    let windows = text::bytes(status.window_bytes as u64);
    vec![
        Line::from(format!("superpeerd {}, up {up}", status.version)).bold(),
        Line::from(status.probe.as_str()).dim(),
        Line::from(format!("{received} in, {sent} out over {} s", rates.seconds)),
        Line::from(format!(
            "{channels} channels, {subscribers} subscribers, {sessions} sessions, {windows} in windows"
        )),
    ]
}

fn worker_table(status: &Status) -> Table<'_> {
    let titles = Row::new(["WORKER", "CPU", "SESSIONS", "OUT"]).bold();
    let rows = status.workers.iter().take(WORKERS_MAX).enumerate().map(|(number, worker)| {
        Row::new([
            number.to_string(),
            format!("{:.1} %", 100.0 * worker.cpu),
            worker.sessions.to_string(),
            text::bit_rate(worker.sent_bps),
        ])
    });
    Table::new(rows, [17, 12, 10, 13].map(Constraint::Length)).header(titles)
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use relay::status::{Rates, WorkerStatus};

    use super::*;

    fn channel(letter: &str, subscribers: usize, received_bps: f64) -> ChannelStatus {
        ChannelStatus {
            key: letter.repeat(64),
            subscribers,
            upstreams: 1,
            received_bps,
            ..ChannelStatus::default()
        }
    }

    fn status() -> Status {
        Status {
            version: "0.1.0".to_owned(),
            uptime_s: 61,
            is_healthy: true,
            rates: vec![Rates { seconds: 10, sent_bps: 2.5e9, ..Rates::default() }],
            workers: vec![WorkerStatus { cpu: 0.123, sessions: 7, sent_bps: 1e9, ..WorkerStatus::default() }],
            channels: vec![channel("a", 5, 1e6), channel("b", 1, 9e6), channel("c", 3, 4e6)],
            ..Status::default()
        }
    }

    /// The lines of a screen of this size.
    fn drawn(screen: &mut Screen, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let cells: Vec<&str> = buffer.content().iter().map(|cell| cell.symbol()).collect();
        cells.chunks(usize::from(width)).map(|line| line.concat().trim_end().to_owned()).collect()
    }

    /// The first letters of the channels, as they stand below one another.
    fn order(screen: &mut Screen) -> String {
        let lines = drawn(screen, 100, 20);
        let titles = lines.iter().position(|line| line.starts_with("CHANNEL")).expect("a table of channels");
        lines[titles + 1..].iter().take(3).map(|line| &line[..1]).collect()
    }

    #[test]
    fn it_shows_rates_workers_and_channels() {
        let mut screen = Screen::default();
        screen.note(Ok(status()));
        let text = drawn(&mut screen, 100, 20).join("\n");
        for expected in
            ["up 1m 1s", "2.50 Gbit/s out", "12.3 %", "1.00 Gbit/s", "aaaaaaaaaaaaaaaa ", "q quit"]
        {
            assert!(text.contains(expected), "{expected}:\n{text}");
        }
    }

    #[test]
    fn channels_are_sorted_by_each_column_in_turn_and_either_way() {
        let mut screen = Screen::default();
        screen.note(Ok(status()));
        assert_eq!(order(&mut screen), "acb");
        screen.reverse();
        assert_eq!(order(&mut screen), "bca");
        screen.reverse();
        screen.sort_by_next();
        screen.sort_by_next();
        assert_eq!(order(&mut screen), "bca");
        (0..4).for_each(|_| screen.sort_by_next());
        assert_eq!(screen.order, Order::default());
    }

    #[test]
    fn a_relay_that_goes_leaves_its_last_figures_and_one_that_comes_replaces_them() {
        let mut screen = Screen::default();
        screen.note(Err("no relay runs".to_owned()));
        let text = drawn(&mut screen, 100, 20).join("\n");
        assert!(
            text.contains("no relay runs; still trying") && text.contains("no relay has answered yet"),
            "{text}"
        );
        screen.note(Ok(status()));
        screen.note(Err("no relay runs".to_owned()));
        let text = drawn(&mut screen, 100, 20).join("\n");
        assert!(text.contains("no relay runs; still trying") && text.contains("2.50 Gbit/s"), "{text}");
        screen.note(Ok(Status { uptime_s: 1, ..status() }));
        let text = drawn(&mut screen, 100, 20).join("\n");
        assert!(!text.contains("still trying") && text.contains("up 1s"), "{text}");
    }

    #[test]
    fn many_channels_scroll_and_a_small_terminal_is_no_reason_to_fail() {
        let mut screen = Screen::default();
        let channels = (0..300).map(|number| channel(&format!("{number:04}"), 1, 0.0)).collect();
        screen.note(Ok(Status { channels, ..status() }));
        screen.scroll(10);
        let text = drawn(&mut screen, 100, 20).join("\n");
        assert!(text.contains("\n0010") && !text.contains("\n0009"), "{text}");
        screen.scroll(1_000);
        screen.scroll(-5);
        for (width, height) in [(1, 1), (10, 3), (40, 8), (300, 100)] {
            drawn(&mut screen, width, height);
        }
    }
}
