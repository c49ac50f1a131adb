// What has to happen in the browser: the address bar, the theme, and the cells of the table.
window.dash_clientside = window.dash_clientside || {};

// Addresses that a page itself asked for since the user last went back, forward or along a link.
const gradscopeOwn = new Set();
let gradscopeGoing = false;
let gradscopeSelected = null;

function gradscopeVisit(address) {
    window.history.pushState({}, "", address);
    window.dispatchEvent(new CustomEvent("_dashprivate_pushstate"));
}
window.addEventListener("popstate", () => gradscopeOwn.clear());
window.addEventListener("_dashprivate_pushstate", () => {
    if (!gradscopeGoing) {
        gradscopeOwn.clear();
    }
});

// The range of an axis after a relayout: a new one, none (all is seen), or the old one.
function gradscopeRange(change, axis, old) {
    if (!change || change[axis + ".autorange"]) {
        return null;
    }
    if (change[axis + ".range"]) {
        return change[axis + ".range"];
    }
    const low = change[axis + ".range[0]"];
    const high = change[axis + ".range[1]"];
    return low === undefined || high === undefined ? old || null : [low, high];
}

window.dash_clientside.gradscope = {
    // Put where a page wants to go into the address bar; dcc.Location hears of it as it does of a clicked link.
    go: function () {
        const triggered = window.dash_clientside.callback_context.triggered;
        const goal = triggered.length ? triggered[0].value : null;
        if (goal && goal !== window.location.pathname + window.location.search) {
            gradscopeOwn.add(goal);
            gradscopeGoing = true;
            gradscopeVisit(goal);
            gradscopeGoing = false;
        }
        return window.dash_clientside.no_update;
    },
    // Select in the table what the address says, unless it says so because of a selection in the table: the user
    // may have selected more since.
    select: function (shown) {
        if (!shown || shown.search === gradscopeSelected) {
            return window.dash_clientside.no_update;
        }
        gradscopeSelected = shown.search;
        return gradscopeOwn.has("/" + shown.search) ? window.dash_clientside.no_update : {ids: shown.compare};
    },
    // Note which ranges of which figures are seen: what was relayouted, the figures, what was noted before.
    zoom: function () {
        const given = Array.from(arguments);
        const count = (given.length - 1) / 2;
        const before = given[given.length - 1] || {};
        const after = {...before};
        for (const one of window.dash_clientside.callback_context.triggered) {
            const name = one.prop_id.split(".")[0].replace("flow-", "");
            const place = window.dash_clientside.callback_context.inputs_list.findIndex(
                (input) => input.id === "flow-" + name,
            );
            const figure = given[count + place] || {};
            const of = (figure.layout || {}).uirevision;
            const old = before[name] && before[name].of === of ? before[name] : {};
            const seen = {of: of, x: gradscopeRange(one.value, "xaxis", old.x), y: gradscopeRange(one.value, "yaxis", old.y)};
            if (seen.x || seen.y) {
                after[name] = seen;
            } else {
                delete after[name];
            }
        }
        return JSON.stringify(after) === JSON.stringify(before) ? window.dash_clientside.no_update : after;
    },
    // Before the switch was ever moved, the system's own choice holds.
    theme: function (dark) {
        const wanted = dark ?? window.matchMedia("(prefers-color-scheme: dark)").matches;
        const name = wanted ? "dark" : "light";
        document.documentElement.dataset.agThemeMode = name;
        return [name, name, dark === wanted ? window.dash_clientside.no_update : wanted];
    },
};

const gradscopeCells = (window.dashAgGridComponentFunctions = window.dashAgGridComponentFunctions || {});

gradscopeCells.RunLink = function (props) {
    const follow = (event) => {
        if (event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) {
            return;
        }
        event.preventDefault();
        gradscopeVisit(props.data.href);
    };
    return React.createElement("a", {href: props.data.href, onClick: follow, className: "run"}, props.value);
};

gradscopeCells.StatusBadge = function (props) {
    return React.createElement("span", {className: "badge " + props.value}, props.value);
};

// The order of the names is made where the rows are: numbers in them count as numbers.
const gradscopeFunctions = (window.dashAgGridFunctions = window.dashAgGridFunctions || {});

gradscopeFunctions.byPlace = (one, other, node, otherNode) => node.data.place - otherNode.data.place;
