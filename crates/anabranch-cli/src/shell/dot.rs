//! Commands that begin with a dot: what there is, and how a line is understood.

use super::error::ShellError;

/// A command: its name, what it takes, and what it does.
pub(super) struct About {
    pub(super) name: &'static str,
    pub(super) takes: &'static str,
    pub(super) does: &'static str,
}

const fn about(name: &'static str, takes: &'static str, does: &'static str) -> About {
    About { name, takes, does }
}

/// All commands.
pub(super) const COMMANDS: &[About] = &[
    about("bail", "on|off", "Stop at the first error"),
    about("changes", "on|off", "Show how many rows each statement wrote"),
    about("dump", "[TABLE...]", "The database, or tables like these, as SQL text"),
    about("exit", "", "Leave"),
    about("headers", "on|off", "Show the names of columns"),
    about("help", "", "This list"),
    about("import", "[--csv|--tabs] [--skip N] FILE TABLE", "Rows of a file into a table"),
    about("indexes", "[TABLE]", "Names of indexes"),
    about("mode", "[MODE [TABLE]]", "How rows are shown; insert takes the name of a table"),
    about("nullvalue", "TEXT", "What is shown for NULL"),
    about("output", "[FILE]", "Write results to a file, or to the screen again"),
    about("print", "TEXT...", "Write a text"),
    about("quit", "", "Leave"),
    about("read", "FILE", "Run the statements and commands of a file"),
    about("schema", "[LIKE]", "The statements that make the schema"),
    about("separator", "TEXT", "What stands between values in list mode"),
    about("show", "", "The settings"),
    about("tables", "[LIKE]", "Names of tables and views"),
    about("timer", "on|off", "Show how long each statement takes"),
];

/// A command, understood so far.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Command {
    pub(super) name: &'static str,
    pub(super) args: Vec<String>,
}

impl Command {
    /// Understands a line. A name may be shortened as long as only one command begins so.
    pub(super) fn parse(line: &str) -> Result<Self, ShellError> {
        let mut words = words(line.trim().trim_start_matches('.'))?.into_iter();
        let name = words.next().unwrap_or_default();
        Ok(Command { name: named(&name)?, args: words.collect() })
    }

    /// The only argument.
    pub(super) fn one(&self) -> Result<&str, ShellError> {
        match self.args.as_slice() {
            [one] => Ok(one),
            _ => Err(self.usage()),
        }
    }

    /// The only argument, or none.
    pub(super) fn at_most_one(&self) -> Result<Option<&str>, ShellError> {
        match self.args.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(one)),
            _ => Err(self.usage()),
        }
    }

    /// The only argument, which is a switch.
    pub(super) fn switch(&self) -> Result<bool, ShellError> {
        match self.one()? {
            "on" | "yes" | "1" => Ok(true),
            "off" | "no" | "0" => Ok(false),
            _ => Err(self.usage()),
        }
    }

    pub(super) fn usage(&self) -> ShellError {
        let about = COMMANDS.iter().find(|about| about.name == self.name);
        let takes = about.map_or("", |about| about.takes);
        ShellError::Usage(format!("usage: .{} {takes}", self.name))
    }
}

/// The command that is called so.
fn named(name: &str) -> Result<&'static str, ShellError> {
    let mut like = COMMANDS.iter().map(|about| about.name).filter(|known| known.starts_with(name));
    let (first, second) = (like.next(), like.next());
    match (first, second) {
        (Some(only), None) if !name.is_empty() => return Ok(only),
        (Some(exact), _) if exact == name => return Ok(exact),
        _ => {}
    }
    let near = nearest(name, COMMANDS.iter().map(|about| about.name));
    let shown = super::clean::one_line(name);
    Err(ShellError::Usage(match near {
        Some(near) => format!("there is no command .{shown}; do you mean .{near}?"),
        None => format!("there is no command .{shown}; .help lists those there are"),
    }))
}

/// The word that `name` may be meant to be.
pub(super) fn nearest<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let far = |word: &str| if word.starts_with(name) { 0 } else { distance(name, word) };
    let near = known.map(|word| (far(word), word)).min()?;
    // Beyond that nothing is alike.
    (near.0 <= 1 + name.chars().count() / 3 && !name.is_empty()).then_some(near.1)
}

/// How many letters must be put in, taken out or changed.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, of_a) in a.chars().enumerate() {
        let mut corner = std::mem::replace(&mut row[0], i + 1);
        for (j, of_b) in b.iter().enumerate() {
            let changed = corner + usize::from(of_a != *of_b);
            corner = row[j + 1];
            row[j + 1] = changed.min(corner + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

/// Words between white space; one in quotes may hold anything. In double quotes `\t`, `\n`, `\\` and
/// `\"` mean what they usually do.
fn words(line: &str) -> Result<Vec<String>, ShellError> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while let Some(first) = rest.chars().next() {
        let mut word = String::new();
        let after = if matches!(first, '\'' | '"') {
            let mut chars = rest.char_indices().skip(1);
            loop {
                match chars.next() {
                    None => {
                        let what = format!("a quote is not closed: {first}");
                        return Err(ShellError::Usage(what));
                    }
                    Some((at, c)) if c == first => break at + 1,
                    Some((_, '\\')) if first == '"' => match chars.next().map(|(_, c)| c) {
                        Some('t') => word.push('\t'),
                        Some('n') => word.push('\n'),
                        Some(c) => word.push(c),
                        None => {}
                    },
                    Some((_, c)) => word.push(c),
                }
            }
        } else {
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            word.push_str(&rest[..end]);
            end
        };
        words.push(word);
        rest = rest[after..].trim_start();
    }
    Ok(words)
}

/// The list of commands, for people.
pub(super) fn help() -> String {
    let mut text = String::new();
    for About { name, takes, does } in COMMANDS {
        let command = format!(".{name} {takes}");
        text += &format!("{command:<46} {does}\n");
    }
    let modes: Vec<&str> = super::render::Mode::ALL.iter().map(|(name, _)| *name).collect();
    text += &format!("Modes: {}\n", modes.join(", "));
    text += "Anything else is SQL, and ends with ;\n";
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_into_words() {
        let command = Command::parse(".import  --skip 1 'a b.csv' \"t\\\"\\t\" ").unwrap();
        assert_eq!(command.name, "import");
        assert_eq!(command.args, ["--skip", "1", "a b.csv", "t\"\t"]);
        assert!(Command::parse(".print 'open").is_err());
    }

    #[test]
    fn commands_may_be_shortened_and_mistakes_are_guessed() {
        assert_eq!(Command::parse(".ta").unwrap().name, "tables");
        assert_eq!(Command::parse(".q").unwrap().name, "quit");
        let said = |line| Command::parse(line).unwrap_err().to_string();
        assert!(said(".tabels").contains("do you mean .tables?"), "{}", said(".tabels"));
        assert!(said(".schemas").contains(".schema?"));
        assert!(!said(".").contains("do you mean"), "{}", said("."));
        // Headers, help.
        assert!(said(".h").contains("do you mean .he"), "{}", said(".h"));
        assert!(said(".xyzzy").contains(".help"));
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn switches_are_on_or_off() {
        assert!(Command::parse(".timer on").unwrap().switch().unwrap());
        assert!(!Command::parse(".timer off").unwrap().switch().unwrap());
        let said = Command::parse(".timer maybe").unwrap().switch().unwrap_err().to_string();
        assert_eq!(said, "usage: .timer on|off");
    }
}
