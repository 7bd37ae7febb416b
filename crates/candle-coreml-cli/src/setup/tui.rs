//! The wizard's screen: layout and widgets.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{List, ListItem, ListState, Paragraph, Wrap};

use super::field::Field;
use super::wizard::{Step, Wizard};

/// Lines of the question.
const QUESTION: u16 = 4;

pub(super) fn draw(frame: &mut Frame<'_>, wizard: &Wizard) {
    let rows = heights(frame.area().height).map(Constraint::Length);
    let [title, question, answer, detail, complaint, keys] = Layout::vertical(rows).areas(frame.area());
    let (number, all) = wizard.position();
    let heading = format!("candle-coreml set-up, {number} of {all}: {}", wizard.title());
    frame.render_widget(Paragraph::new(heading).style(Style::new().add_modifier(Modifier::BOLD)), title);
    frame.render_widget(Paragraph::new(wizard.text()).wrap(Wrap { trim: true }), question);
    match wizard.field() {
        Some((field, secret)) => draw_field(frame, answer, field, secret),
        None if wizard.step() == Step::Summary => draw_summary(frame, answer, wizard),
        None => draw_choices(frame, answer, detail, wizard),
    }
    let complaint_text = wizard.complaint().map(|c| format!("! {c}")).unwrap_or_default();
    frame.render_widget(Paragraph::new(complaint_text).style(Style::new().add_modifier(Modifier::BOLD)), complaint);
    let help = match wizard.step() {
        Step::Summary => "Enter saves   Shift-Tab back   Esc leaves, nothing is changed",
        _ if wizard.field().is_some() => "Enter next   Shift-Tab back   Ctrl-U clears   Esc leaves, nothing is changed",
        _ => "↑ ↓ choose   Enter next   Shift-Tab back   Esc leaves, nothing is changed",
    };
    frame.render_widget(Paragraph::new(help).style(Style::new().add_modifier(Modifier::DIM)), keys);
}

/// Heights of title, question, answer, detail, error and keys, which add up to `total`. On a terminal that is too
/// small, title and answer are kept longest. (ratatui's solver resolves contradicting constraints in an order that
/// differs from run to run.)
fn heights(total: u16) -> [u16; 6] {
    let mut rows = [0; 6];
    let mut rest = total;
    for (part, wanted) in [(0, 1), (2, 1), (5, 1), (4, 1), (1, QUESTION), (3, 2), (0, 1)] {
        let given = rest.min(wanted);
        rows[part] += given;
        rest -= given;
    }
    rows[2] += rest;
    rows
}

/// The visible part of a line, including the cursor.
fn window(field: &Field, secret: bool, width: usize) -> (String, usize) {
    let (text, cursor) = field.parts();
    let first = (cursor + 1).saturating_sub(width);
    let shown = text.iter().skip(first).take(width);
    (shown.map(|c| if secret { '•' } else { *c }).collect(), cursor - first)
}

fn draw_field(frame: &mut Frame<'_>, area: Rect, field: &Field, secret: bool) {
    let (text, cursor) = window(field, secret, usize::from(area.width.saturating_sub(2)).max(1));
    let before: String = text.chars().take(cursor).collect();
    // Wide characters take two columns.
    let column = Span::raw(before).width().min(usize::from(area.width.saturating_sub(3)));
    frame.render_widget(Paragraph::new(format!("> {text}")), area);
    if area.width > 2 && area.height > 0 {
        frame.set_cursor_position((area.x + 2 + u16::try_from(column).unwrap_or(0), area.y));
    }
}

fn draw_summary(frame: &mut Frame<'_>, area: Rect, wizard: &Wizard) {
    let rows = wizard.summary();
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines: Vec<Line<'_>> =
        rows.into_iter().map(|(name, value)| Line::raw(format!("  {name:width$}  {value}"))).collect();
    frame.render_widget(Paragraph::new(lines), area);
}

fn draw_choices(frame: &mut Frame<'_>, area: Rect, detail: Rect, wizard: &Wizard) {
    let (choices, selected) = (wizard.choices(), wizard.selected());
    let items = choices.iter().map(|choice| {
        let style = Style::new();
        let style = if choice.refused.is_some() { style.add_modifier(Modifier::DIM) } else { style };
        let note = if choice.refused.is_some() { "  (not here)" } else { "" };
        ListItem::new(format!("{}{note}", choice.label)).style(style)
    });
    let list = List::new(items).highlight_symbol("> ").highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = ListState::default().with_selected(Some(selected));
    frame.render_stateful_widget(list, area, &mut state);
    let text = choices.get(selected).map(|c| c.detail.as_str()).unwrap_or_default();
    frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), detail);
}

#[cfg(test)]
mod tests {
    use candle_coreml::catalog::Memory;
    use candle_coreml::settings::Layer;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::wizard::Facts;
    use super::*;

    #[test]
    fn the_title_keeps_the_first_row_in_a_terminal_of_any_size() {
        let memory = Memory { total: 0, available: 0 };
        let facts = Facts { path: "c.toml".into(), existing: Layer::default(), devices: Vec::new(), memory };
        let wizard = Wizard::new(facts);
        for (rows, columns) in [(1, 12), (2, 12), (3, 12), (5, 12), (9, 12), (10, 12), (11, 40), (24, 100)] {
            let mut terminal = Terminal::new(TestBackend::new(columns, rows)).expect("a terminal");
            terminal.draw(|frame| draw(frame, &wizard)).expect("drawn");
            let first: String = terminal.backend().buffer().content()[..12].iter().map(|c| c.symbol()).collect();
            assert_eq!(first, "candle-corem", "{rows} rows:\n{}", terminal.backend());
        }
    }

    #[test]
    fn a_line_is_shown_around_its_cursor_and_secrets_are_not_shown() {
        let mut field = Field::new("0123456789");
        assert_eq!(window(&field, false, 20), ("0123456789".to_owned(), 10));
        assert_eq!(window(&field, false, 4), ("789".to_owned(), 3));
        assert_eq!(window(&field, true, 4), ("•••".to_owned(), 3));
        field.home();
        assert_eq!(window(&field, false, 4), ("0123".to_owned(), 0));
        assert_eq!(window(&Field::default(), true, 1), (String::new(), 0));
    }
}
