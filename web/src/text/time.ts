/** `2 min ago`, for what was a moment ago; the date and time for what is older. */
export function ago(time: string, now: Date): string {
  const then = new Date(time);
  const seconds = Math.max(0, Math.round((now.getTime() - then.getTime()) / 1000));
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ago`;
  return then.toISOString().slice(0, 16).replace("T", " ");
}
