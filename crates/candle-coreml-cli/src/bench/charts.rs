//! SVG charts for the report.

use plotters::prelude::*;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const SIZE: (u32, u32) = (760, 300);
const BLUE_BAR: RGBColor = RGBColor(37, 99, 235);
const FONT: &str = "sans-serif";
/// Number of histogram bins.
const BINS: usize = 24;
/// Maximum number of operations in the bar chart.
const BARS: usize = 12;

/// Draws into a string. Charts have no title; the report provides it.
fn svg(draw: impl FnOnce(&DrawingArea<SVGBackend<'_>, plotters::coord::Shift>) -> Result<()>) -> Result<String> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        draw(&root)?;
        root.present()?;
    }
    Ok(text)
}

/// Axis label without trailing zeros.
fn label(v: &f64) -> String {
    let text = format!("{v:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Histogram of latencies, in milliseconds.
pub(super) fn histogram(seconds: &[f64]) -> Result<String> {
    let ms: Vec<f64> = seconds.iter().map(|s| s * 1e3).collect();
    // plotters searches for ticks forever if an axis is not finite.
    let ms: Vec<f64> = ms.into_iter().filter(|v| v.is_finite()).collect();
    let least = ms.iter().copied().reduce(f64::min).unwrap_or(0.0);
    let most = ms.iter().copied().reduce(f64::max).unwrap_or(0.0);
    // Identical values still need a bar of nonzero width.
    let width = ((most - least) / BINS as f64).max(least.abs() * 1e-3).max(1e-6);
    let mut bins = [0u32; BINS];
    for v in &ms {
        bins[(((v - least) / width) as usize).min(BINS - 1)] += 1;
    }
    let highest = bins.iter().max().copied().unwrap_or(1).max(1);
    svg(|root| {
        let range = least..least + width * BINS as f64;
        let mut chart = ChartBuilder::on(root)
            .margin(10)
            .x_label_area_size(40)
            .y_label_area_size(56)
            .build_cartesian_2d(range, 0u32..highest + 1)?;
        let mut mesh = chart.configure_mesh();
        mesh.disable_x_mesh().light_line_style(TRANSPARENT).x_label_formatter(&label);
        mesh.x_desc("ms").y_desc("times").axis_desc_style((FONT, 13)).draw()?;
        chart.draw_series(bins.iter().enumerate().filter(|(_, n)| **n > 0).map(|(i, n)| {
            let left = least + width * i as f64;
            Rectangle::new([(left, 0), (left + width * 0.92, *n)], BLUE_BAR.filled())
        }))?;
        Ok(())
    })
}

/// Line chart whose y axis starts at zero.
pub(super) fn curve(points: &[(f64, f64)], x: &str, y: &str) -> Result<String> {
    let points: Vec<(f64, f64)> = points.iter().copied().filter(|p| p.0.is_finite() && p.1.is_finite()).collect();
    let (first, last) = (points.first().map_or(0.0, |p| p.0), points.last().map_or(1.0, |p| p.0));
    let highest = points.iter().map(|p| p.1).fold(0.0, f64::max) * 1.1;
    svg(|root| {
        let mut chart = ChartBuilder::on(root)
            .margin(10)
            .x_label_area_size(40)
            .y_label_area_size(64)
            .build_cartesian_2d(first..last.max(first + 1.0), 0.0..highest.max(1e-6))?;
        let mut mesh = chart.configure_mesh();
        mesh.light_line_style(TRANSPARENT).x_label_formatter(&label).y_label_formatter(&label);
        mesh.x_desc(x).y_desc(y).axis_desc_style((FONT, 13)).draw()?;
        chart.draw_series(LineSeries::new(points.iter().copied(), BLUE_BAR.stroke_width(2)))?;
        chart.draw_series(points.iter().map(|p| Circle::new(*p, 3, BLUE_BAR.filled())))?;
        Ok(())
    })
}

/// Horizontal bars with names and labels, longest first.
pub(super) fn bars(rows: &[(String, f64, String)]) -> Result<String> {
    let rows = &rows[..rows.len().min(BARS)];
    let longest = rows.iter().map(|r| r.1).fold(1e-12, f64::max);
    let (left, right) = (210, SIZE.0 as i32 - 130);
    svg(|root| {
        let font = |size: u32| (FONT, size).into_font().color(&BLACK);
        for (i, (name, value, label)) in rows.iter().enumerate() {
            let top = 10 + i as i32 * 23;
            let end = left + ((right - left) as f64 * value / longest) as i32;
            root.draw(&Rectangle::new([(left, top), (end.max(left + 1), top + 16)], BLUE_BAR.filled()))?;
            root.draw(&Text::new(name.clone(), (10, top + 2), font(13)))?;
            root.draw(&Text::new(label.clone(), (end + 8, top + 2), font(12)))?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charts_hold_for_any_number_of_values() {
        for values in [&[][..], &[0.0], &[0.001; 50], &[0.001, 5.0, 0.002]] {
            let chart = histogram(values).expect("a chart");
            assert!(chart.starts_with("<svg") && !chart.contains("NaN"), "{values:?}");
            let points: Vec<(f64, f64)> = values.iter().enumerate().map(|(i, v)| (i as f64, *v)).collect();
            let chart = curve(&points, "position", "tokens/s").expect("a chart");
            assert!(!chart.contains("NaN"), "{values:?}");
        }
        assert!(bars(&[]).is_ok());
        // Names come from files.
        let chart = bars(&[("<script>".to_owned(), 1.0, "50%".to_owned())]).expect("a chart");
        assert!(!chart.contains("<script>") && chart.contains("50%"), "{chart}");
    }

    #[test]
    fn a_histogram_has_a_bar_for_each_place_that_occurs() {
        // Two values at the ends: two bars plus the background.
        let rectangles = |chart: &str| chart.matches("<rect").count();
        let empty = rectangles(&histogram(&[]).expect("a chart"));
        assert_eq!(rectangles(&histogram(&[0.001, 0.002, 0.001]).expect("a chart")) - empty, 2);
    }
}
