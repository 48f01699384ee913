// Made by `npm run actions` from src/backline/data/actions.json. Do not edit.

export interface ActionParameters {
  'view.ask': Record<string, never>
  'view.map': Record<string, never>
  'view.coverage': Record<string, never>
  'view.actions': Record<string, never>
  'view.copyLink': Record<string, never>
  'collection.select': { collection: string }
  'theme.toggle': Record<string, never>
  'theme.set': { theme: 'dark' | 'light' | 'system' }
  'palette.open': Record<string, never>
  'shortcuts.rebind': { action: string; shortcut: string | null }
  'shortcuts.reset': Record<string, never>
  'search.focus': Record<string, never>
  'search.setQuery': { query: string }
  'search.clear': Record<string, never>
  'search.setFilter': { filter: 'category' | 'track' | 'genre' | 'bpm'; value: string | null }
  'search.setMode': { mode: 'hybrid' | 'semantic' | 'keyword' }
  'search.cycleMode': Record<string, never>
  'search.more': Record<string, never>
  'search.nearest': Record<string, never>
  'results.next': Record<string, never>
  'results.previous': Record<string, never>
  'results.select': { key: string | null }
  'results.showOnMap': Record<string, never>
  'suggestion.apply': { key?: string; title?: string; parameters?: Record<string, unknown> }
  'suggestion.revert': { key?: string; title?: string; parameters?: Record<string, unknown> }
  'suggestion.copy': { key?: string }
  'suggestion.copyLink': { key?: string }
  'map.zoomIn': Record<string, never>
  'map.zoomOut': Record<string, never>
  'map.fit': Record<string, never>
  'map.panLeft': Record<string, never>
  'map.panRight': Record<string, never>
  'map.panUp': Record<string, never>
  'map.panDown': Record<string, never>
  'map.zoomToHits': Record<string, never>
  'map.toggleCategory': { category: string }
  'map.showAll': Record<string, never>
  'map.nearestNext': Record<string, never>
  'map.nearestPrevious': Record<string, never>
  'backfill.start': Record<string, never>
  'backfill.cancel': Record<string, never>
  'coverage.refresh': Record<string, never>
  'run.select': { run: number | null }
  'failure.retry': { collection: string; key: string }
  'failure.retryAll': Record<string, never>
  'failure.page': { after: string | null }
  'session.enterKey': Record<string, never>
  'session.setKey': { key: string }
  'session.forgetKey': Record<string, never>
  'session.reconnect': Record<string, never>
  'session.dismiss': Record<string, never>
  'session.reload': Record<string, never>
  'history.undo': Record<string, never>
  'history.redo': Record<string, never>
  'actions.search': { query: string }
}

export type ActionName = keyof ActionParameters
export type Fact =
  | 'shortcuts.changed'
  | 'search.active'
  | 'results.more'
  | 'results.keptBack'
  | 'results.any'
  | 'result.selected'
  | 'result.parameters'
  | 'result.notApplied'
  | 'result.applied'
  | 'map.hidden'
  | 'online'
  | 'backfill.idle'
  | 'backfill.running'
  | 'failures.any'
  | 'session.key'
  | 'offline'
  | 'notices.any'
  | 'history.undo'
  | 'history.redo'

export interface ActionDefinition {
  readonly id: number
  readonly name: ActionName
  readonly title: string
  readonly category: string
  readonly description: string
  readonly contexts: readonly string[]
  readonly shortcut: string | null
  readonly undoable: boolean
  readonly when: readonly Fact[]
  readonly palette: boolean
}

export const ACTIONS: readonly ActionDefinition[] = [
  {"id":44100,"name":"view.ask","title":"Go to Ask","category":"Navigation","description":"Open the search for advice.","contexts":["all"],"shortcut":"g a","undoable":false,"when":[],"palette":true},
  {"id":44101,"name":"view.map","title":"Go to Map","category":"Navigation","description":"Open the map of the collection's embeddings.","contexts":["all"],"shortcut":"g m","undoable":false,"when":[],"palette":true},
  {"id":44102,"name":"view.coverage","title":"Go to Coverage","category":"Navigation","description":"Open coverage, backfills and dead letters.","contexts":["all"],"shortcut":"g c","undoable":false,"when":[],"palette":true},
  {"id":44103,"name":"view.actions","title":"Go to Actions","category":"Navigation","description":"Open the table of actions and their shortcuts.","contexts":["all"],"shortcut":"g k","undoable":false,"when":[],"palette":true},
  {"id":44104,"name":"view.copyLink","title":"Copy link to this view","category":"Navigation","description":"Copy the address, which holds the whole state of the view.","contexts":["all"],"shortcut":"Shift+L","undoable":false,"when":[],"palette":true},
  {"id":44110,"name":"collection.select","title":"Choose collection","category":"Navigation","description":"Show another collection in every view.","contexts":["all"],"shortcut":null,"undoable":true,"when":[],"palette":false},
  {"id":44120,"name":"theme.toggle","title":"Switch between dark and light","category":"Navigation","description":"Change the theme.","contexts":["all"],"shortcut":"Shift+T","undoable":true,"when":[],"palette":true},
  {"id":44121,"name":"theme.set","title":"Set theme","category":"Navigation","description":"Set the theme: dark, light, or as the system has it.","contexts":["all"],"shortcut":null,"undoable":true,"when":[],"palette":false},
  {"id":44150,"name":"palette.open","title":"Open the command palette","category":"Palette and shortcuts","description":"Search all actions and run one.","contexts":["all"],"shortcut":"Mod+K","undoable":false,"when":[],"palette":true},
  {"id":44151,"name":"shortcuts.rebind","title":"Rebind a shortcut","category":"Palette and shortcuts","description":"Give an action another shortcut; one that is taken is refused.","contexts":["all"],"shortcut":null,"undoable":true,"when":[],"palette":false},
  {"id":44152,"name":"shortcuts.reset","title":"Reset all shortcuts","category":"Palette and shortcuts","description":"Give every action its default shortcut again.","contexts":["all"],"shortcut":null,"undoable":true,"when":["shortcuts.changed"],"palette":true},
  {"id":44200,"name":"search.focus","title":"Search","category":"Search","description":"Put the cursor into the search field.","contexts":["all"],"shortcut":"/","undoable":false,"when":[],"palette":true},
  {"id":44201,"name":"search.setQuery","title":"Set the question","category":"Search","description":"Ask something; results follow as you type.","contexts":["ask","map"],"shortcut":null,"undoable":false,"when":[],"palette":false},
  {"id":44202,"name":"search.clear","title":"Clear the question","category":"Search","description":"Empty the search field and every filter.","contexts":["ask","map"],"shortcut":"Shift+X","undoable":true,"when":["search.active"],"palette":true},
  {"id":44203,"name":"search.setFilter","title":"Filter results","category":"Search","description":"Narrow by category, or say what is worked on: track type, genre, tempo in bpm.","contexts":["ask"],"shortcut":null,"undoable":true,"when":[],"palette":false},
  {"id":44204,"name":"search.setMode","title":"Set search mode","category":"Search","description":"Rank by meaning and words together, by meaning, or by words.","contexts":["ask","map"],"shortcut":null,"undoable":true,"when":[],"palette":false},
  {"id":44205,"name":"search.cycleMode","title":"Next search mode","category":"Search","description":"Step through hybrid, semantic and keyword search.","contexts":["ask","map"],"shortcut":"Shift+M","undoable":true,"when":[],"palette":true},
  {"id":44206,"name":"search.more","title":"Show more results","category":"Search","description":"Show ten more results.","contexts":["ask"],"shortcut":"Shift+J","undoable":false,"when":["results.more"],"palette":true},
  {"id":44207,"name":"search.nearest","title":"Show the nearest anyway","category":"Search","description":"Show what comes nearest though nothing relevant is known.","contexts":["ask","map"],"shortcut":null,"undoable":false,"when":["results.keptBack"],"palette":true},
  {"id":44210,"name":"results.next","title":"Next result","category":"Search","description":"Move to the next result.","contexts":["ask","map"],"shortcut":"j","undoable":false,"when":["results.any"],"palette":true},
  {"id":44211,"name":"results.previous","title":"Previous result","category":"Search","description":"Move to the previous result.","contexts":["ask","map"],"shortcut":"k","undoable":false,"when":["results.any"],"palette":true},
  {"id":44212,"name":"results.select","title":"Select result","category":"Search","description":"Make one result the selected one.","contexts":["ask","map"],"shortcut":null,"undoable":false,"when":[],"palette":false},
  {"id":44213,"name":"results.showOnMap","title":"Show on the map","category":"Search","description":"Show the question and its results on the map.","contexts":["ask"],"shortcut":"Shift+V","undoable":false,"when":["results.any"],"palette":true},
  {"id":44300,"name":"suggestion.apply","title":"Apply suggestion","category":"Suggestions","description":"Send the suggestion's parameters to the host; without a host, copy them.","contexts":["ask","map"],"shortcut":"a","undoable":true,"when":["result.selected","result.parameters","result.notApplied"],"palette":true},
  {"id":44301,"name":"suggestion.revert","title":"Take back suggestion","category":"Suggestions","description":"Tell the host to take the suggestion's parameters back.","contexts":["ask","map"],"shortcut":null,"undoable":true,"when":["result.applied"],"palette":true},
  {"id":44302,"name":"suggestion.copy","title":"Copy parameters","category":"Suggestions","description":"Copy the selected suggestion's parameters as JSON.","contexts":["ask","map"],"shortcut":"c","undoable":false,"when":["result.selected","result.parameters"],"palette":true},
  {"id":44303,"name":"suggestion.copyLink","title":"Copy link to suggestion","category":"Suggestions","description":"Copy the address of this question with the selected result.","contexts":["ask"],"shortcut":"y","undoable":false,"when":["result.selected"],"palette":true},
  {"id":44400,"name":"map.zoomIn","title":"Zoom in","category":"Map","description":"Come closer to the middle of the map.","contexts":["map"],"shortcut":"+","undoable":false,"when":[],"palette":true},
  {"id":44401,"name":"map.zoomOut","title":"Zoom out","category":"Map","description":"Go further from the middle of the map.","contexts":["map"],"shortcut":"-","undoable":false,"when":[],"palette":true},
  {"id":44402,"name":"map.fit","title":"Fit the map","category":"Map","description":"Show the whole map.","contexts":["map"],"shortcut":"0","undoable":false,"when":[],"palette":true},
  {"id":44403,"name":"map.panLeft","title":"Move the view left","category":"Map","description":"Move the view of the map left.","contexts":["map"],"shortcut":"ArrowLeft","undoable":false,"when":[],"palette":true},
  {"id":44404,"name":"map.panRight","title":"Move the view right","category":"Map","description":"Move the view of the map right.","contexts":["map"],"shortcut":"ArrowRight","undoable":false,"when":[],"palette":true},
  {"id":44405,"name":"map.panUp","title":"Move the view up","category":"Map","description":"Move the view of the map up.","contexts":["map"],"shortcut":"ArrowUp","undoable":false,"when":[],"palette":true},
  {"id":44406,"name":"map.panDown","title":"Move the view down","category":"Map","description":"Move the view of the map down.","contexts":["map"],"shortcut":"ArrowDown","undoable":false,"when":[],"palette":true},
  {"id":44410,"name":"map.zoomToHits","title":"Zoom to the hits","category":"Map","description":"Show the question and its hits as large as they fit.","contexts":["map"],"shortcut":"z","undoable":false,"when":["results.any"],"palette":true},
  {"id":44411,"name":"map.toggleCategory","title":"Show or hide a category","category":"Map","description":"Show or hide the points of one category.","contexts":["map"],"shortcut":null,"undoable":true,"when":[],"palette":false},
  {"id":44412,"name":"map.showAll","title":"Show every category","category":"Map","description":"Show the points of every category.","contexts":["map"],"shortcut":"Shift+A","undoable":true,"when":["map.hidden"],"palette":true},
  {"id":44413,"name":"map.nearestNext","title":"Next point","category":"Map","description":"Select the next point to the right.","contexts":["map"],"shortcut":".","undoable":false,"when":[],"palette":true},
  {"id":44414,"name":"map.nearestPrevious","title":"Previous point","category":"Map","description":"Select the next point to the left.","contexts":["map"],"shortcut":",","undoable":false,"when":[],"palette":true},
  {"id":44500,"name":"backfill.start","title":"Start a backfill","category":"Coverage","description":"Embed every row whose vector is missing or out of date.","contexts":["all"],"shortcut":"b","undoable":false,"when":["online","backfill.idle"],"palette":true},
  {"id":44501,"name":"backfill.cancel","title":"Cancel the backfill","category":"Coverage","description":"Stop the running backfill after its present batch; what is embedded stays.","contexts":["all"],"shortcut":"Shift+B","undoable":false,"when":["online","backfill.running"],"palette":true},
  {"id":44502,"name":"coverage.refresh","title":"Refresh","category":"Coverage","description":"Read the present view's figures again.","contexts":["all"],"shortcut":"r","undoable":false,"when":[],"palette":true},
  {"id":44503,"name":"run.select","title":"Select run","category":"Coverage","description":"Show the figures of one backfill.","contexts":["coverage"],"shortcut":null,"undoable":false,"when":[],"palette":false},
  {"id":44600,"name":"failure.retry","title":"Retry a dead letter","category":"Dead letters","description":"Send one failed row again.","contexts":["coverage"],"shortcut":null,"undoable":false,"when":["online"],"palette":false},
  {"id":44601,"name":"failure.retryAll","title":"Retry all dead letters","category":"Dead letters","description":"Send every failed row of the collection again.","contexts":["coverage"],"shortcut":"Shift+R","undoable":false,"when":["online","failures.any"],"palette":true},
  {"id":44602,"name":"failure.page","title":"Turn the page of dead letters","category":"Dead letters","description":"Show the next hundred dead letters, or the first again.","contexts":["coverage"],"shortcut":null,"undoable":false,"when":[],"palette":false},
  {"id":44700,"name":"session.enterKey","title":"Enter the API key","category":"Session","description":"Give the key that the server asks for; it stays in this tab alone.","contexts":["all"],"shortcut":"Shift+K","undoable":false,"when":[],"palette":true},
  {"id":44701,"name":"session.setKey","title":"Use an API key","category":"Session","description":"Send this key with every request of this tab.","contexts":["all"],"shortcut":null,"undoable":false,"when":[],"palette":false},
  {"id":44702,"name":"session.forgetKey","title":"Forget the API key","category":"Session","description":"Remove the key from this tab.","contexts":["all"],"shortcut":null,"undoable":false,"when":["session.key"],"palette":true},
  {"id":44703,"name":"session.reconnect","title":"Reconnect now","category":"Session","description":"Try the connection at once instead of waiting.","contexts":["all"],"shortcut":null,"undoable":false,"when":["offline"],"palette":true},
  {"id":44704,"name":"session.dismiss","title":"Dismiss notices","category":"Session","description":"Close every notice.","contexts":["all"],"shortcut":"Escape","undoable":false,"when":["notices.any"],"palette":true},
  {"id":44705,"name":"session.reload","title":"Load the page anew","category":"Session","description":"Fetch the page again, as it is on the server now; the address keeps the view.","contexts":["all"],"shortcut":null,"undoable":false,"when":[],"palette":true},
  {"id":44800,"name":"history.undo","title":"Undo","category":"History","description":"Undo the last action that can be undone.","contexts":["all"],"shortcut":"Mod+Z","undoable":false,"when":["history.undo"],"palette":true},
  {"id":44801,"name":"history.redo","title":"Redo","category":"History","description":"Do again what was undone.","contexts":["all"],"shortcut":"Mod+Shift+Z","undoable":false,"when":["history.redo"],"palette":true},
  {"id":44802,"name":"actions.search","title":"Filter the table of actions","category":"Palette and shortcuts","description":"Show only the actions that fit the words.","contexts":["actions"],"shortcut":null,"undoable":false,"when":[],"palette":false},
]
