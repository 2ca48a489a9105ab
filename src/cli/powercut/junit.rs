//! A report in the format of `JUnit`, which CI systems read.

use std::fmt;

use crate::cli::xml::Escaped;

/// A state that was checked.
#[derive(Debug, Clone)]
pub(super) struct Case {
    pub name: String,
    pub seconds: f64,
    /// How the check has ended, if it failed.
    pub failure: Option<String>,
}

/// All of them.
pub(super) struct Report<'a> {
    pub suite: String,
    pub cases: &'a [Case],
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suite = Escaped(&self.suite);
        let failures = self.cases.iter().filter(|case| case.failure.is_some()).count();
        let seconds: f64 = self.cases.iter().map(|case| case.seconds).sum();
        writeln!(f, r#"<?xml version="1.0" encoding="UTF-8"?>"#)?;
        writeln!(
            f,
            r#"<testsuite name="{suite}" tests="{}" failures="{failures}" errors="0" time="{seconds:.3}">"#,
            self.cases.len()
        )?;
        for Case { name, seconds, failure } in self.cases {
            let name = Escaped(name);
            write!(f, r#"  <testcase classname="{suite}" name="{name}" time="{seconds:.3}""#)?;
            match failure {
                None => writeln!(f, "/>")?,
                Some(how) => {
                    writeln!(f, r#"><failure message="{}"/></testcase>"#, Escaped(how))?;
                }
            }
        }
        writeln!(f, "</testsuite>")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_counts_and_escapes() {
        let case = |name: &str, failure: Option<&str>| Case {
            name: name.into(),
            seconds: 0.25,
            failure: failure.map(str::to_owned),
        };
        let cases = [case("p=1", None), case("p=2 <&>", Some("exit status 1"))];
        let text = Report { suite: "powercut drop-1".into(), cases: &cases }.to_string();
        assert!(text.contains(r#"tests="2" failures="1" errors="0" time="0.500""#), "{text}");
        assert!(text.contains(r#"name="p=2 &lt;&amp;&gt;""#), "{text}");
        assert!(text.contains(r#"<failure message="exit status 1"/>"#), "{text}");
    }
}
