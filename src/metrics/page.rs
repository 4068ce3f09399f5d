//! One answer to a scraper.

use std::fmt;

use prometheus_client::{
    encoding::{EncodeCounterValue, EncodeGaugeValue, EncodeMetric, MetricEncoder, NoLabelSet, prometheus_text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::{Metric, Registry},
};

/// Names, what they mean, and the values of this moment. Names end with the unit; that of a counter is shown with
/// `_total` behind it.
#[derive(Default)]
pub struct Page(Registry);

impl Page {
    pub fn gauge<N: Gauge>(&mut self, name: &str, help: &str, value: N) {
        self.0.register(name, help, ConstGauge::new(value));
    }

    pub fn counter<N: Counter>(&mut self, name: &str, help: &str, value: N) {
        self.0.register(name, help, ConstCounter::new(value));
    }

    /// A value for each of the given values of `labels`.
    pub fn labeled_gauge<N: Gauge, L: Into<String>, const LABELS: usize>(
        &mut self,
        name: &str,
        help: &str,
        labels: &'static [&'static str; LABELS],
        values: impl IntoIterator<Item = ([L; LABELS], N)>,
    ) {
        self.0.register(name, help, Gauges(labeled(labels, values)));
    }

    pub fn labeled_counter<N: Counter, L: Into<String>, const LABELS: usize>(
        &mut self,
        name: &str,
        help: &str,
        labels: &'static [&'static str; LABELS],
        values: impl IntoIterator<Item = ([L; LABELS], N)>,
    ) {
        self.0.register(name, help, Counters(labeled(labels, values)));
    }

    /// What counts as it goes; a clone shares its values.
    pub fn living(&mut self, name: &str, help: &str, metric: impl Metric) {
        self.0.register(name, help, metric);
    }

    pub fn text(self) -> String {
        let mut text = String::new();
        prometheus_text::encode(&mut text, &self.0).expect("a string can be written to");
        text
    }
}

pub trait Gauge: EncodeGaugeValue + fmt::Debug + Send + Sync + 'static {}
impl<N: EncodeGaugeValue + fmt::Debug + Send + Sync + 'static> Gauge for N {}

pub trait Counter: EncodeCounterValue + fmt::Debug + Send + Sync + 'static {}
impl<N: EncodeCounterValue + fmt::Debug + Send + Sync + 'static> Counter for N {}

type Labeled<N> = Vec<(Vec<(&'static str, String)>, N)>;

fn labeled<N, L: Into<String>, const LABELS: usize>(
    labels: &'static [&'static str; LABELS],
    values: impl IntoIterator<Item = ([L; LABELS], N)>,
) -> Labeled<N> {
    let row = |(texts, value): ([L; LABELS], N)| {
        let texts: [String; LABELS] = texts.map(Into::into);
        (std::iter::zip(labels.iter().copied(), texts).collect(), value)
    };
    values.into_iter().map(row).collect()
}

#[derive(Debug)]
struct Gauges<N>(Labeled<N>);

impl<N: Gauge> EncodeMetric for Gauges<N> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(labels, value)| encoder.encode_family(labels)?.encode_gauge(value))
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[derive(Debug)]
struct Counters<N>(Labeled<N>);

impl<N: Counter> EncodeMetric for Counters<N> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(labels, value)| {
            encoder.encode_family(labels)?.encode_counter::<NoLabelSet, N, u64>(value, None)
        })
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_what_prometheus_reads() {
        let mut page = Page::default();
        page.gauge("chappe_things", "How many things there are", 3_u64);
        page.labeled_counter("chappe_bytes", "What came", &["from"], [(["a \"b\" \\\n"], 7_u64), (["c"], 8)]);
        page.labeled_gauge("chappe_nothing", "Never shown", &["of"], [([""; 1], 0.5); 0]);
        let lines = [
            "# HELP chappe_things How many things there are.",
            "# TYPE chappe_things gauge",
            "chappe_things 3",
            "# HELP chappe_bytes_total What came.",
            "# TYPE chappe_bytes_total counter",
            r#"chappe_bytes_total{from="a \"b\" \\\n"} 7"#,
            r#"chappe_bytes_total{from="c"} 8"#,
            "",
        ];
        assert_eq!(page.text(), lines.join("\n"));
    }
}
