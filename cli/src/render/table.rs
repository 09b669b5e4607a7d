//! Tables without lines: columns, a dim header, one line per row.

use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Row, Table};

/// A table that fits the terminal, if standard output is one, by shortening its cells.
pub(super) struct Grid(Table);

/// One cell.
pub(super) fn cell(text: impl ToString) -> Cell {
    Cell::new(text)
}

/// A cell that may be overlooked.
pub(super) fn dim(text: impl ToString) -> Cell {
    Cell::new(text).add_attribute(Attribute::Dim)
}

/// A cell in the colour of `style`.
pub(super) fn painted(style: anstyle::Style, text: impl ToString) -> Cell {
    let cell = Cell::new(text);
    let cell = match style.get_fg_color() {
        Some(anstyle::Color::Ansi(colour)) => match colour {
            anstyle::AnsiColor::Green => cell.fg(Color::DarkGreen),
            anstyle::AnsiColor::Red => cell.fg(Color::DarkRed),
            anstyle::AnsiColor::Yellow => cell.fg(Color::DarkYellow),
            anstyle::AnsiColor::Cyan => cell.fg(Color::DarkCyan),
            _ => cell,
        },
        _ => cell,
    };
    if style.get_effects().contains(anstyle::Effects::DIMMED) {
        cell.add_attribute(Attribute::Dim)
    } else {
        cell
    }
}

/// A number, to the right.
pub(super) fn number(text: impl ToString) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

impl Grid {
    /// An empty table with this header.
    pub(super) fn new(header: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_truncation_indicator("…");
        table.enforce_styling();
        if table.is_tty() {
            table.set_content_arrangement(ContentArrangement::Dynamic);
        }
        let header: Vec<Cell> = header.iter().map(dim).collect();
        table.set_header(header);
        Self(table)
    }

    /// Adds a row.
    pub(super) fn row(&mut self, cells: Vec<Cell>) {
        let mut row = Row::from(cells);
        row.max_height(1);
        self.0.add_row(row);
    }

    /// The text, a newline after every line.
    pub(super) fn text(&mut self) -> String {
        let last = self.0.column_count().saturating_sub(1);
        for (at, column) in self.0.column_iter_mut().enumerate() {
            column.set_padding((u16::from(at == 0) * 2, if at == last { 0 } else { 2 }));
        }
        let mut text = String::new();
        for line in self.0.lines() {
            text.push_str(&trimmed(&line));
            text.push('\n');
        }
        text
    }
}

/// The line without blanks at its end, also where they stand before the end of a style.
fn trimmed(line: &str) -> String {
    let mut kept = line.trim_end();
    let mut codes = String::new();
    while let Some(at) = kept.rfind('\x1b').filter(|_| kept.ends_with('m')) {
        if kept[at..]
            .chars()
            .skip(2)
            .any(|c| !c.is_ascii_digit() && !matches!(c, ';' | 'm'))
        {
            break;
        }
        codes.insert_str(0, &kept[at..]);
        kept = kept[..at].trim_end();
    }
    format!("{kept}{codes}")
}
