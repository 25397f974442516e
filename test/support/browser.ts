/// <reference lib="dom" />
// A real browser for pages that must look right: Debian's chromium, or what CHROMIUM names. Nothing is downloaded.
import { spawnSync } from 'node:child_process'
import puppeteer, { type Browser, type Page } from 'puppeteer-core'

const candidates = [process.env.CHROMIUM, 'chromium', 'chromium-browser', 'google-chrome'].filter((name) => name !== undefined)

/** The path of a browser, or undefined where there is none. */
export function findChromium(): string | undefined {
  for (const name of candidates) {
    const found = spawnSync('sh', ['-c', 'command -v "$1"', 'sh', name], { encoding: 'utf8' })
    if (found.status === 0) return found.stdout.trim()
  }
  return undefined
}

export const chromiumHint = 'needs a browser: run: sudo apt-get install -y chromium (or set CHROMIUM to the path of one)'

export function openBrowser(executablePath: string): Promise<Browser> {
  // no sandbox: containers give no user namespaces, and the pages are our own files
  const args = ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--hide-scrollbars', '--force-color-profile=srgb']
  return puppeteer.launch({ executablePath, args, headless: true, timeout: 120_000, protocolTimeout: 240_000 })
}

export interface Opened {
  page: Page
  problems: string[] // errors of scripts, messages of the console, requests that left the page
}

/** Opens a file in light or dark colours. */
export async function openFile(browser: Browser, file: string, colours: 'light' | 'dark'): Promise<Opened> {
  const page = await browser.newPage()
  const problems: string[] = []
  page.on('pageerror', (error) => problems.push(String(error)))
  page.on('console', (message) => problems.push(`${message.type()}: ${message.text()}`))
  page.on('request', (request) => {
    if (!/^(file|data):/.test(request.url())) problems.push(`request: ${request.url()}`)
  })
  await page.evaluateOnNewDocument(installProbe)
  await page.setViewport({ width: 1280, height: 900 })
  await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: colours }])
  await page.goto(`file://${file}`)
  return { page, problems }
}

/** The variance of the grey values of a picture, 0 for a blank one; the browser decodes it. */
export function colourVariance(page: Page, png: Uint8Array): Promise<number> {
  return page.evaluate(async (url) => {
    const image = new Image()
    image.src = url
    await image.decode()
    const canvas = new OffscreenCanvas(image.width, image.height)
    const context = canvas.getContext('2d')!
    context.drawImage(image, 0, 0)
    const { data } = context.getImageData(0, 0, image.width, image.height)
    let sum = 0
    let squares = 0
    for (let i = 0; i < data.length; i += 4) {
      const grey = (data[i]! + data[i + 1]! + data[i + 2]!) / 3
      sum += grey
      squares += grey * grey
    }
    const count = data.length / 4
    return squares / count - (sum / count) ** 2
  }, `data:image/png;base64,${Buffer.from(png).toString('base64')}`)
}

/** In the page: the contrast of a colour with what is painted behind an element, as WCAG 2.2 defines it. */
function installProbe(): void {
  const channels = (colour: string) => (colour.match(/[\d.]+/g) ?? []).map(Number)
  const luminance = (colour: string) => {
    const [r, g, b] = channels(colour).slice(0, 3).map((value) => value / 255)
      .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
    return 0.2126 * r! + 0.7152 * g! + 0.0722 * b!
  }
  const behind = (element: Element | null): string => {
    if (!element) return 'rgb(255, 255, 255)'
    const colour = getComputedStyle(element).backgroundColor
    return channels(colour)[3] === 0 ? behind(element.parentElement) : colour
  }
  const contrast = (colour: string, element: Element) => {
    const [low, high] = [luminance(colour), luminance(behind(element))].sort((a, b) => a - b)
    return (high! + 0.05) / (low! + 0.05)
  }
  Object.assign(globalThis, { probe: { contrast } })
}
