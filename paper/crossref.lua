-- Numbers figures, tables, equations and sections, and turns @fig-x, @tbl-x, @eq-x and @sec-x into
-- numbered links, alike in Typst, HTML and LaTeX. An equation is a paragraph [$$…$$]{#eq-x}.
local names = { fig = 'Figure', tbl = 'Table', eq = 'Equation', sec = 'Section' }
local count, label, levels = { fig = 0, tbl = 0, eq = 0 }, {}, {}

local function fail(...) io.stderr:write(string.format(...), '\n') os.exit(83) end

local function kind(id) local prefix = id:match('^(%a+)%-') return names[prefix] and prefix end

local function define(id, expected, number)
  if kind(id) ~= expected then fail('%s "%s" needs an id {#%s-…}', names[expected], id, expected) end
  if label[id] then fail('the id %s is given twice', id) end
  label[id] = names[expected] .. '\u{a0}' .. number
end

local function captioned(element, expected)
  if #element.caption.long == 0 then fail('%s "%s" needs a caption', names[expected], element.identifier) end
  count[expected] = count[expected] + 1
  define(element.identifier, expected, count[expected])
  if FORMAT:match('html') then -- Typst and LaTeX number captions themselves
    element.caption.long[1].content:insert(1, pandoc.Strong(label[element.identifier] .. '. '))
  end
  return element
end

local function header(element)
  local depth = element.level
  if element.classes:includes('unnumbered') then return nil end
  levels = { table.unpack(levels, 1, depth) }
  for i = 1, depth do levels[i] = (levels[i] or 0) + (i == depth and 1 or 0) end
  if kind(element.identifier) then define(element.identifier, 'sec', table.concat(levels, '.')) end
end

local function equation(span)
  local id, math = span.identifier, span.content[1]
  if kind(id) ~= 'eq' then return nil end
  count.eq = count.eq + 1
  define(id, 'eq', count.eq)
  if FORMAT == 'latex' then
    return pandoc.RawInline('latex', '\\begin{equation}\\label{' .. id .. '}' .. math.text .. '\\end{equation}')
  elseif FORMAT == 'typst' then
    local open = pandoc.RawInline('typst', '#[#set math.equation(numbering: "(1)")\n')
    return { open, math, pandoc.RawInline('typst', ' <' .. id .. '>]') }
  end
  return pandoc.Span({ math, pandoc.Span('(' .. count.eq .. ')', { class = 'number' }) }, { id = id, class = 'equation' })
end

local function reference(cite)
  local links = pandoc.Inlines {}
  for i, citation in ipairs(cite.citations) do
    if not kind(citation.id) then return nil end
    if not label[citation.id] then fail('reference to @%s, which does not exist', citation.id) end
    if i > 1 then links:extend { pandoc.Str(','), pandoc.Space() } end
    links:insert(pandoc.Link(label[citation.id], '#' .. citation.id))
  end
  return links
end

local figure, tabular = function(e) return captioned(e, 'fig') end, function(e) return captioned(e, 'tbl') end
return { { Header = header }, { Figure = figure, Table = tabular, Span = equation }, { Cite = reference } }
