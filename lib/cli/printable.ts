// Errors and warnings quote model files, which are untrusted: what would move the cursor, change colours or turn the line round is shown as an escape.

const unprintable = /[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g

/** One line that a terminal only shows. */
export function printable(text: string): string {
  const escaped = (letter: string): string => `\\u${letter.charCodeAt(0).toString(16).padStart(4, '0')}`
  return text.replace(/\s*\n\s*/g, ' ').replace(unprintable, escaped)
}
