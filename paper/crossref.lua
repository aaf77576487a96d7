-- Numbers figures, tables, equations, sections and appendices, and turns @fig-x, @tbl-x, @eq-x, @sec-x
-- and @app-x into numbered links, alike in Typst, HTML and LaTeX. An equation is a paragraph
-- [$$…$$]{#eq-x}. In Typst, figures and tables of the class "narrow" stand in one column, where they
-- are in the text: as floats they came to lie under those of the whole page.
local names = { fig = 'Figure', tbl = 'Table', eq = 'Equation', sec = 'Section', app = 'Appendix' }
local count, label, levels = {}, {}, {}

local function fail(...) io.stderr:write(string.format(...), '\n') os.exit(83) end
local function raw(text) return pandoc.RawInline(FORMAT, text) end
local function kind(id) local prefix = id:match('^(%a+)%-') return names[prefix] and prefix end

local function define(id, expected, number)
  if kind(id) ~= expected then fail('"%s" needs an id {#%s-…}', id, expected) end
  if label[id] then fail('the id %s is given twice', id) end
  count[expected] = (count[expected] or 0) + 1
  label[id] = names[expected] .. '\u{a0}' .. (number or count[expected])
end

local function captioned(element, expected)
  if #element.caption.long == 0 then fail('%s needs a caption', element.identifier) end
  define(element.identifier, expected)
  if FORMAT:match('html') then -- Typst and LaTeX number captions themselves
    element.caption.long[1].content:insert(1, pandoc.Strong(label[element.identifier] .. '. '))
  end
  local narrow = element.classes:includes('narrow')
  element:walk { Image = function(image) narrow = narrow or image.classes:includes('narrow') end }
  if FORMAT == 'typst' and narrow then
    return { pandoc.RawBlock('typst', '#show <' .. element.identifier .. '>: set figure(scope: "column", placement: none)'), element }
  end
  return element
end

local function header(element)
  if element.classes:includes('unnumbered') then return nil end
  if kind(element.identifier) == 'app' then
    define(element.identifier, 'app', string.char(65 + (count.app or 0)))
    element.content:insert(1, pandoc.Str(label[element.identifier] .. '. '))
    element.classes:insert('unnumbered')
    return element
  end
  levels = { table.unpack(levels, 1, element.level) }
  for i = 1, element.level do levels[i] = (levels[i] or 0) + (i == element.level and 1 or 0) end
  if kind(element.identifier) then define(element.identifier, 'sec', table.concat(levels, '.')) end
end

local function equation(span)
  local id, math = span.identifier, span.content[1]
  if kind(id) ~= 'eq' then return nil end
  define(id, 'eq')
  if FORMAT == 'latex' then
    return raw('\\begin{equation}\\label{' .. id .. '}' .. math.text .. '\\end{equation}')
  elseif FORMAT == 'typst' then
    return { raw('#[#set math.equation(numbering: "(1)")\n'), math, raw(' <' .. id .. '>]') }
  end
  local number = pandoc.Span('(' .. count.eq .. ')', { class = 'number' })
  return pandoc.Span({ math, number }, { id = id, class = 'equation' })
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

local function figure(element) return captioned(element, 'fig') end
local function tabular(element) return captioned(element, 'tbl') end
local objects = { Figure = figure, Table = tabular, Span = equation }
return { { Header = header }, objects, { Cite = reference } }
