// The report as Markdown (GitHub's tables). Charts become the tables of their numbers.
import { type Table } from '../support/case'
import { cell } from '../support/report'
import { type Block, type Report, type Section } from './document'

export function markdownReport({ title, command, facts, tallies, sections }: Report): string {
  return [
    `# ${plain(title)}`,
    fenced(command),
    rows([['', ''], ...facts.map(({ name, value }) => [name, value])]),
    tallies.map(({ name, value }) => `${name}: ${value}`).join(' · '),
    ...sections.flatMap(sectionBlocks),
  ].join('\n\n') + '\n'
}

function sectionBlocks({ title, about, blocks }: Section): string[] {
  return [`## ${plain(title)}`, ...(about ? [plain(about)] : []), ...blocks.map(block)]
}

function block(one: Block): string {
  if (one.kind === 'text') return one.tone ? `**${plain(one.text)}**` : plain(one.text)
  if (one.kind === 'list') return [`${plain(one.title)}:`, '', ...one.items.map((item) => `- ${plain(item)}`)].join('\n')
  if (one.kind === 'table') return table(one.table)
  return [`### ${plain(one.figure.title)}`, plain(one.figure.caption), grid(one.figure.table)].join('\n\n')
}

function table(one: Table): string {
  return [`**${plain(one.title)}**`, grid(one)].join('\n\n')
}

function grid({ columns, rows: records }: Table): string {
  const head = columns.map(({ title, unit }) => (unit ? `${title}, ${unit}` : title))
  return rows([head, ...records.map((record) => columns.map(({ key }) => cell(record[key])))])
}

function rows([head, ...body]: string[][]): string {
  return [head, head.map(() => '---'), ...body].map((cells) => `| ${cells.map(plain).join(' | ')} |`).join('\n')
}

// Names and notes come from files and other programs: nothing in them is markup.
function plain(text: string): string {
  return text.replace(/[\\`*_[\]<>|#]/g, '\\$&').replace(/\s*\n\s*/g, ' ')
}

function fenced(text: string): string {
  const longest = Math.max(0, ...(text.match(/`+/g) ?? []).map((run) => run.length))
  const fence = '`'.repeat(Math.max(3, longest + 1))
  return `${fence}\n${text.replace(/\n/g, ' ')}\n${fence}`
}
