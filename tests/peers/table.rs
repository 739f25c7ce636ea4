//! The table of what was played with whom: `peers.md` in the target folder's `tmp`, made anew whenever a row is done.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use switchback::clock;

/// Both hear each other.
pub const AUDIO: &str = "two-way audio";
/// The customer's stack holds, and after it resumed both hear each other.
pub const CUSTOMER_HOLDS: &str = "hold and resume, customer";
/// GenerativeAgent's stack does.
pub const GENAGENT_HOLDS: &str = "hold and resume, GenerativeAgent";
/// The customer hangs up.
pub const CUSTOMER_BYE: &str = "BYE, customer";
/// GenerativeAgent hangs up, and the customer is handed back.
pub const GENAGENT_BYE: &str = "BYE, GenerativeAgent";
/// Every column.
pub const ALL: [&str; 5] = [AUDIO, CUSTOMER_HOLDS, GENAGENT_HOLDS, CUSTOMER_BYE, GENAGENT_BYE];

/// One line of the table: a customer, a transport, a GenerativeAgent. Written when dropped, however far it came.
pub struct Row {
    title: String,
    played: &'static [&'static str],
    held: Vec<&'static str>,
    began: Instant,
}

impl Row {
    /// Begins a line with these columns in it.
    pub fn begin(customer: &str, way: &str, genagent: &str, played: &'static [&'static str]) -> Self {
        let title = format!("| {customer} | {way} | {genagent} |");
        Self { title, played, held: Vec::new(), began: clock::now() }
    }

    /// This column holds.
    pub fn holds(&mut self, column: &'static str) {
        self.held.push(column);
    }

    fn cell(&self, column: &str) -> &'static str {
        match (self.played.contains(&column), self.held.contains(&column)) {
            (_, true) => " yes |",
            (true, false) => " NO |",
            (false, false) => " not played |",
        }
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        let cells: String = ALL.iter().map(|column| self.cell(column)).collect();
        let line = format!("{}{cells} {:.0} s |\n", self.title, (clock::now() - self.began).as_secs_f64());
        let name: String = self.title.chars().filter(|c| c.is_alphanumeric()).collect();
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("peers");
        let _ = fs::create_dir_all(&folder).and_then(|()| fs::write(folder.join(name), line));
        write_table(&folder);
    }
}

fn write_table(folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut rows: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    rows.sort_unstable();
    let head = format!("| customer | over | GenerativeAgent | {} | time |\n", ALL.join(" | "));
    let rows: String = rows.iter().filter_map(|row| fs::read_to_string(row).ok()).collect();
    let table = format!("{head}|{}\n{rows}", "---|".repeat(ALL.len() + 4));
    // Another test may do the same at this moment: whole tables only.
    let (ready, making) = (folder.with_extension("md"), folder.with_extension(std::process::id().to_string()));
    let _ = fs::write(&making, table).and_then(|()| fs::rename(&making, &ready));
}
