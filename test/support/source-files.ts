// Reads source files and finds what they import or include, with line numbers. Rule: comments never count, and every file is read once.
import { readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'

export interface SourceFile {
  /** relative to the repository root, with forward slashes */
  path: string
  text: string
}

export interface Reference {
  line: number
  target: string
  /** only types come from there, so that nothing is loaded at run time */
  typeOnly: boolean
}

export const repositoryRoot = path.resolve(__dirname, '..', '..')

/** All files below the folder whose names end in one of the endings, sorted. */
export function readSources(folder: string, endings: string[]): SourceFile[] {
  return readdirSync(path.join(repositoryRoot, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && endings.some((ending) => entry.name.endsWith(ending)))
    .map((entry) => path.relative(repositoryRoot, path.join(entry.parentPath, entry.name)).split(path.sep).join('/'))
    .sort()
    .map((file) => ({ path: file, text: readFileSync(path.join(repositoryRoot, file), 'utf8') }))
}

const commentOrString = /\/\/[^\n]*|\/\*[\s\S]*?\*\/|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"|`(?:\\[\s\S]|[^`\\])*`/g
const blank = (text: string) => text.replace(/[^\n]/g, ' ')

/** The text with comments blanked out; lines and columns stay. */
export function withoutComments(text: string): string {
  return text.replace(commentOrString, (match) => (match.startsWith('/') ? blank(match) : match))
}

/** The text with comments and the contents of strings blanked out. */
export function withoutCommentsAndStrings(text: string): string {
  return text.replace(commentOrString, blank)
}

function lineAt(text: string, index: number): number {
  return text.slice(0, index).split('\n').length
}

const staticImport = /^[ \t]*(?:import|(?:import|export)\b(?<clause>[^'"`;=()]*?)\bfrom)\s*(?<quote>['"])(?<target>[^'"\n]+)\k<quote>/gm
const dynamicImport = /\b(?:import|require|require\.resolve)\s*\(\s*(?<quote>['"`])(?<target>[^'"`\n]+)\k<quote>/g

function isTypeOnly(clause: string): boolean {
  if (/^\s*type\b/.test(clause)) return true
  const names = /^\s*\{([^}]*)\}\s*$/.exec(clause)?.[1]
  return names !== undefined && names.trim() !== '' && names.split(',').every((name) => name.trim() === '' || /^\s*type\s/.test(name))
}

/** Everything that a TypeScript file imports, exports from or requires. */
export function importsOf(file: SourceFile): Reference[] {
  const text = withoutComments(file.text)
  const references: Reference[] = []
  for (const pattern of [staticImport, dynamicImport]) {
    for (const match of text.matchAll(pattern)) {
      const { clause = '', target = '' } = match.groups ?? {}
      const start = match.index + match[0].length - 1
      references.push({ line: lineAt(text, start), target, typeOnly: pattern === staticImport && isTypeOnly(clause) })
    }
  }
  return references.sort((a, b) => a.line - b.line)
}

/** Everything that a C++ file includes; system headers keep their angle brackets. */
export function includesOf(file: SourceFile): Reference[] {
  const text = withoutComments(file.text)
  return [...text.matchAll(/^[ \t]*#[ \t]*include[ \t]*(?:"([^"\n]+)"|(<[^>\n]+>))/gm)].map((match) => ({
    line: lineAt(text, match.index),
    target: match[1] ?? match[2] ?? '',
    typeOnly: false
  }))
}

/** One cycle of the graph, as its nodes with the first repeated at the end; undefined if there is none. */
export function findCycle(graph: Map<string, string[]>): string[] | undefined {
  const finished = new Set<string>()
  const visit = (node: string, trail: string[]): string[] | undefined => {
    if (trail.includes(node)) return [...trail.slice(trail.indexOf(node)), node]
    if (finished.has(node)) return undefined
    for (const next of graph.get(node) ?? []) {
      const cycle = visit(next, [...trail, node])
      if (cycle) return cycle
    }
    finished.add(node)
    return undefined
  }
  for (const node of graph.keys()) {
    const cycle = visit(node, [])
    if (cycle) return cycle
  }
  return undefined
}
