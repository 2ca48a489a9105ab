//! A report in the format of `JUnit`, which CI systems read.

use std::fmt;

use crate::cli::xml::Escaped;
use crate::powercut::states::Verdict;

/// A state that was checked.
#[derive(Debug, Clone)]
pub(super) struct Case {
    pub name: String,
    pub seconds: f64,
    pub verdict: Verdict,
}

/// All of them.
pub(super) struct Report<'a> {
    pub suite: String,
    pub cases: &'a [Case],
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suite = Escaped(&self.suite);
        let is_hung = |case: &&Case| matches!(case.verdict, Verdict::Hung(_));
        let failures = self.cases.iter().filter(|case| case.verdict.is_failure()).count();
        let errors = self.cases.iter().filter(is_hung).count();
        let seconds: f64 = self.cases.iter().map(|case| case.seconds).sum();
        writeln!(f, r#"<?xml version="1.0" encoding="UTF-8"?>"#)?;
        writeln!(
            f,
            r#"<testsuite name="{suite}" tests="{}" failures="{failures}" errors="{errors}" time="{seconds:.3}">"#,
            self.cases.len()
        )?;
        for Case { name, seconds, verdict } in self.cases {
            let name = Escaped(name);
            write!(f, r#"  <testcase classname="{suite}" name="{name}" time="{seconds:.3}""#)?;
            match verdict {
                Verdict::Passed => writeln!(f, "/>")?,
                Verdict::Failed(how) => {
                    writeln!(f, r#"><failure message="{}"/></testcase>"#, Escaped(how))?;
                }
                Verdict::Hung(how) => {
                    writeln!(f, r#"><error message="{}"/></testcase>"#, Escaped(how))?;
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
        let case = |name: &str, verdict| Case { name: name.into(), seconds: 0.25, verdict };
        let cases = [
            case("p=1", Verdict::Passed),
            case("p=2 <&>", Verdict::Failed("exit status 1".into())),
            case("p=3", Verdict::Hung("no end".into())),
        ];
        let text = Report { suite: "powercut drop-1".into(), cases: &cases }.to_string();
        assert!(text.contains(r#"tests="3" failures="1" errors="1" time="0.750""#), "{text}");
        assert!(text.contains(r#"name="p=2 &lt;&amp;&gt;""#), "{text}");
        assert!(text.contains(r#"<failure message="exit status 1"/>"#), "{text}");
        assert!(text.contains(r#"<error message="no end"/>"#), "{text}");
    }
}
